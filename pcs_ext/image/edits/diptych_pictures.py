"""Pictures of what a photo of any size shows, drawn beside it."""

import dataclasses
from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from pcs_ext.errors import InputError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.concept import SUBJECT, fill
from pcs_ext.image.data import Photo
from pcs_ext.image.edits.diptych import DiptychConfig, draw_beside, on_white, squared
from pcs_ext.image.edits.region import whole
from pcs_ext.image.levels import to_pil
from pcs_ext.image.locate import locate
from pcs_ext.image.subject import GeneratedImage
from pcs_ext.reporter import Reporter


def draw_diptychs(
    photo: Photo,
    prompts: Sequence[str],
    *,
    noun: str,
    seeds: Sequence[int],
    config: DiptychConfig,
    negative_prompt: str = "",
    base: str | AbstractBackbone = "toybox",
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> list[GeneratedImage]:
    """Right panels of prompts: for each prompt, one per seed, in that order.

    Args:
        photo: shows the subject; without a mask the base's attention looks for the noun. What is around it becomes
            white, as in the paper, which asks a detector and a segmenter.
        prompts: texts; `{subject}` stands for the noun.
        noun: what the photo shows.
        seeds: of the noise.
        config: how.
        negative_prompt: what to stay away from.
        base: toybox, a hub id, a folder, a file, or a loaded backbone.
        device, precision: of a base that is loaded here.
        reporter: hears the progress.

    Raises:
        UsageError: no noun, prompt or seed.
        InputError: a mask that marks nothing; without one, attention that finds nothing.
    """
    noun = noun.strip()
    if not noun or not prompts or not seeds:
        raise UsageError("a diptych takes a noun, at least one prompt and one seed; one is missing.")
    texts = [fill(prompt, noun) if SUBJECT in prompt else prompt for prompt in prompts]
    if not isinstance(base, AbstractBackbone):
        base = load_backbone(base, device=device, precision=precision, reporter=reporter)
    mask = _found(base, photo, noun) if photo.mask is None else photo.mask[None]
    if not (mask > 0.5).any():
        raise InputError(f"the mask of {photo.path.name} marks nothing; expected white where the {noun} is.")
    left = squared(on_white(photo.image[None], mask))
    facts = {
        "edit": config.id, "base": base.name, "negative_prompt": negative_prompt,
        "photo": photo.path.name, "noun": noun, "attention": config.attention,
        **dataclasses.asdict(config.sampling),
    }  # fmt: skip
    made = []
    for prompt, text in zip(prompts, texts, strict=True):
        images = draw_beside(
            base, left, text, noun=noun, seeds=tuple(seeds), config=config, negative_prompt=negative_prompt,
            reporter=reporter,
        )  # fmt: skip
        made += [
            GeneratedImage(to_pil(image), prompt, {"seed": seed, **facts})
            for image, seed in zip(images, seeds, strict=True)
        ]
    return made


def _found(backbone: AbstractBackbone, photo: Photo, noun: str) -> Tensor:
    """Where the noun is in a photo, `1 1 h w`."""
    image = photo.image[None]
    found = locate(backbone, whole(image, backbone).cut(image), fill("a photo of {subject}", noun), noun)
    size = (image.shape[-2], image.shape[-1])
    return F.interpolate(found, size=size, mode="nearest")
