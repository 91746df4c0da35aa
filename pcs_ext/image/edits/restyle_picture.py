"""A picture of any size painted in the manner of another one."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import Photo
from pcs_ext.image.edits.portrait_diffusion import PortraitDiffusionConfig, restyle
from pcs_ext.image.edits.region import whole
from pcs_ext.image.levels import to_pil
from pcs_ext.image.subject import GeneratedImage
from pcs_ext.reporter import Reporter


def restyle_picture(
    picture: Photo,
    style: Photo,
    *,
    prompt: str,
    config: PortraitDiffusionConfig,
    base: AbstractBackbone,
    reporter: Reporter | None = None,
) -> GeneratedImage:
    """The picture in the style's manner, as large as it was. Masks count where both have one.

    Args:
        picture, style: any sizes; the style is brought to the picture's shape.
        prompt: what both show.
        config: how.
        base: loaded.
        reporter: hears the progress.

    Raises:
        UsageError: an empty prompt, or a mask with nothing inside or outside.
    """
    if not prompt.strip():
        raise UsageError("--prompt is empty; say in a word or two what both pictures show, such as head or a dog.")
    image = picture.image[None]
    region = whole(image, base)
    size = (region.height, region.width)
    masks = None
    if picture.mask is not None and style.mask is not None:
        inside = (picture.mask[None] > 0.5).float()
        masks = region.cut_mask(inside), F.interpolate(style.mask[None], size=size, mode="area")
    painted = restyle(
        base, region.cut(image), _resized(style.image[None], size), config=config, prompt=prompt.strip(), masks=masks,
        reporter=reporter,
    )  # fmt: skip
    full = region.paste(image, painted, torch.ones_like(image[:, :1]), 0.0)
    facts = {"edit": config.id, "base": base.name, "style": style.path.name, "masks": masks is not None}
    facts |= dataclasses.asdict(config.sampling)
    return GeneratedImage(to_pil(full[0]), prompt.strip(), facts)


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    if image.shape[-2:] == size:
        return image
    return F.interpolate(image, size=size, mode="bicubic", antialias=True).clamp(-1, 1)
