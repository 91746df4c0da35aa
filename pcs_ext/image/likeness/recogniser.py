"""What an image encoder makes of whoever is inside a mask."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.evaluate.encoders import load_image_encoder
from pcs_ext.image.masks import bounding_box
from pcs_ext.image.photo_reader import encoder_folder
from pcs_ext.image.terms.base import Noised

_WHERE = "`encoder` in the objective's part of the JSON of --dry-run, and pass it with --config"


class Recogniser:
    """An encoder that sees what masks cut out; what it saw of photos is kept by `Batch.keys`.

    Args:
        encoder: see `IdentityConfig`.
        device: where it runs.

    Raises:
        ModelError: there is no such encoder.
    """

    def __init__(self, encoder: str, device: torch.device) -> None:
        self.encoder = load_image_encoder(encoder_folder(encoder, "the recipe", _WHERE), device)
        self.device = device
        self._known: dict[str, Tensor] = {}

    def __call__(self, images: Tensor, masks: Tensor | None = None) -> Tensor:
        """Unit vectors `b d`, float32, of images `b 3 h w` in [-1, 1]. Differentiable.

        Args:
            images: of any size.
            masks: `b 1 h w`: who is meant; None: all is seen.
        """
        with torch.autocast(self.device.type, enabled=False):
            return self.encoder.encode_images(cut_out(images.to(self.device).float(), masks))

    @torch.no_grad()
    def photos(self, images: Tensor, masks: Tensor | None, keys: Sequence[str] | None) -> Tensor:
        """The same without gradients; equal ones of equal keys."""
        if keys is None:
            return self(images, masks)
        for row, key in enumerate(keys):
            if key not in self._known:
                own = None if masks is None else masks[row : row + 1]
                self._known[key] = self(images[row : row + 1], own)[0]
        return torch.stack([self._known[key] for key in keys])


def cut_out(images: Tensor, masks: Tensor | None) -> Tensor:
    """The box around each mask, as large as the picture was; where a mask is empty or None, the whole picture.

    Args:
        images: `b 3 h w`.
        masks: `b 1 h w`, above 0.5 inside.
    """
    if masks is None:
        return images
    cut: list[Tensor] = []
    for image, mask in zip(images, masks, strict=True):
        part = image[None]
        if (mask > 0.5).any():
            left, top, right, bottom = bounding_box(mask[None])
            part = part[..., top:bottom, left:right]
        cut.append(F.interpolate(part, size=images.shape[-2:], mode="bilinear", antialias=True))
    return torch.cat(cut)


def implied(backbone: AbstractBackbone, asked: Noised, prediction: Tensor) -> Tensor:
    """The clean pictures that predictions imply, `b 3 h w`, float32. Differentiable."""
    clean = backbone.schedule.to_x0(prediction.float(), asked.latents.float(), asked.timesteps)
    return backbone.decode_latents(clean.to(backbone.dtype)).float()


def clear_enough(backbone: AbstractBackbone, timesteps: Tensor, below: float) -> Tensor:
    """`b` bool: whether the noise is low enough for a clean picture to be looked at."""
    return timesteps < below * backbone.schedule.num_train_timesteps
