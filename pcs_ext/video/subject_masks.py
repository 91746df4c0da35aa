"""Where a noun is in photos, by the image model's own attention: masks without a segmentation model."""

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.image.attention import AttentionMaps, attention_program
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import Photo
from pcs_ext.runtime import generator_for

_LEVELS = (0.2, 0.35, 0.5)
"""Shares of the noise schedule at which the model looks: low enough to see the photo, high enough to need the text."""
_THRESHOLD = 0.5
"""Of a map scaled to [0, 1]: cells above are the noun's."""


def with_masks(photos: Sequence[Photo], backbone: AbstractBackbone, noun: str) -> list[Photo]:
    """The photos, those without a mask with one from the model's attention to the noun; their own are kept."""
    return [
        photo
        if photo.mask is not None
        else dataclasses.replace(photo, mask=attention_mask(photo.image, backbone, noun))
        for photo in photos
    ]


@torch.no_grad()
def attention_mask(image: Tensor, backbone: AbstractBackbone, noun: str) -> Tensor:
    """Where the model looks for a noun in a photo (DAAM, Tang et al. 2022, arXiv 2210.04885, on a noised photo).

    Coarse: maps have a quarter of the latents' side at best. The same photo gives the same mask every time.

    Args:
        image: `3 h w` in [-1, 1], any size.
        backbone: an image model with text cross-attention, of square pictures.
        noun: one or more words.

    Returns:
        `1 h w` in {0, 1}; never empty.
    """
    side = backbone.resolution
    square = F.interpolate(image[None], (side, side), mode="bilinear", antialias=True).clamp(-1, 1)
    latents = backbone.encode_images(square.to(backbone.device, backbone.dtype)).float()
    prompt, schedule = f"a photo of a {noun}", backbone.schedule
    first = backbone.token_count("a photo of a") + 1  # behind the start mark
    words = slice(first, first + backbone.token_count(noun))
    maps = AttentionMaps(side=latents.shape[-1])
    generator = generator_for("attention mask", noun)
    with attention_program(backbone, maps):
        for level in _LEVELS:
            noise = torch.randn(latents.shape, generator=generator).to(latents)
            timesteps = torch.tensor([int(level * schedule.num_train_timesteps)], device=latents.device)
            noisy = schedule.add_noise(latents, noise, timesteps)
            backbone.predict(noisy, timesteps, backbone.encode_prompt([prompt]))
    found = maps.maps()[:, words].sum(1, keepdim=True).cpu()
    found = F.interpolate(found, image.shape[-2:], mode="bilinear")[0]
    found = (found - found.min()) / (found.max() - found.min()).clamp_min(1e-12)
    return (found >= _THRESHOLD).float()
