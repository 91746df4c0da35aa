"""Cut out a part of a picture, edit it at the base's size, and put it back without touching the rest."""

import dataclasses
import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.masks import bounding_box, feathered
from pcs_ext.image.sample import SampleConfig, sides


@dataclasses.dataclass(frozen=True)
class Region:
    """A rectangle of a picture, and the size at which it is edited."""

    left: int
    top: int
    right: int
    bottom: int
    """Pixels; right and bottom exclusive."""
    height: int
    width: int
    """Of the edit: what the base's latents and its levels divide."""

    def cut(self, image: Tensor) -> Tensor:
        """The part of an image `1 c h w` at the size of the edit."""
        part = image[..., self.top : self.bottom, self.left : self.right]
        if part.shape[-2:] == (self.height, self.width):
            return part
        return F.interpolate(part, size=(self.height, self.width), mode="bicubic", antialias=True).clamp(-1, 1)

    def cut_mask(self, mask: Tensor) -> Tensor:
        """The same of a mask `1 1 h w`: zeros and ones."""
        part = mask[..., self.top : self.bottom, self.left : self.right]
        return (F.interpolate(part, size=(self.height, self.width), mode="area") > 0).float()

    def paste(self, original: Tensor, edited: Tensor, mask: Tensor, feather: float) -> Tensor:
        """The original with the edited part inside the mask; outside every value is the original's, bit for bit.

        Args:
            original: `1 3 h w`.
            edited: `1 3 height width`, of this region.
            mask: `1 1 h w`, where the edit may show.
            feather: width of the soft edge, which lies inside the mask, as a share of the region's shorter side.
        """
        size = (self.bottom - self.top, self.right - self.left)
        if edited.shape[-2:] != size:
            edited = F.interpolate(edited, size=size, mode="bicubic", antialias=True)
        whole = original.clone()
        whole[..., self.top : self.bottom, self.left : self.right] = edited.clamp(-1, 1)
        alpha = feathered(mask, round(feather * min(size)))
        return torch.where(alpha == 0, original, torch.lerp(original, whole, alpha))


def check_sides(sampling: SampleConfig) -> None:
    """See that settings ask for no size where the result is as large as the picture that is edited.

    Raises:
        ConfigError: they do.
    """
    if sampling.height is not None or sampling.width is not None:
        raise ConfigError(
            f"the result is as large as the picture that is edited; leave height ({sampling.height}) and width "
            f"({sampling.width}) out of the sampling settings."
        )


def whole(image: Tensor, backbone: AbstractBackbone) -> Region:
    """All of an image `1 c h w`, edited at about the base's number of pixels."""
    height, width = image.shape[-2:]
    return Region(0, 0, width, height, *edit_size(height, width, backbone))


def around(mask: Tensor, margin: float, backbone: AbstractBackbone) -> Region:
    """What a mask `1 1 h w` covers, with `margin` times its size to all sides, made as square as the picture allows."""
    height, width = mask.shape[-2:]
    left, top, right, bottom = bounding_box(mask)
    side = math.ceil(max(right - left, bottom - top) * (1 + 2 * margin))
    x0, x1 = _around((left + right) / 2, side, width)
    y0, y1 = _around((top + bottom) / 2, side, height)
    return Region(x0, y0, x1, y1, *edit_size(y1 - y0, x1 - x0, backbone))


def _around(centre: float, side: int, limit: int) -> tuple[int, int]:
    """A stretch of `side` pixels about a centre, moved and cut to lie within `limit`."""
    side = min(side, limit)
    start = min(max(round(centre - side / 2), 0), limit - side)
    return start, start + side


def edit_size(height: int, width: int, backbone: AbstractBackbone) -> tuple[int, int]:
    """Sides near the base's area with the shape of `height x width`, in steps its autoencoder and levels divide."""
    unit = backbone.vae_factor * 2 ** (len(backbone.denoiser.config["block_out_channels"]) - 1)
    scale = backbone.resolution / math.sqrt(height * width)
    return max(unit, round(height * scale / unit) * unit), max(unit, round(width * scale / unit) * unit)


def square(picture: Tensor, side: int) -> Tensor:
    """The largest square in the middle of a picture `3 h w`, as `1 3 side side`."""
    return shaped(picture, side, side)


def shaped(picture: Tensor, height: int, width: int) -> Tensor:
    """The largest part in the middle of a picture `3 h w` that has a shape, as `1 3 height width`."""
    rows, columns = picture.shape[-2:]
    scale = min(rows / height, columns / width)
    tall, wide = min(rows, round(scale * height)), min(columns, round(scale * width))
    top, left = (rows - tall) // 2, (columns - wide) // 2
    part = picture[None, :, top : top + tall, left : left + wide]
    return torch.clamp(F.interpolate(part, size=(height, width), mode="bicubic", antialias=True), -1, 1)


def as_sampled(picture: Tensor, backbone: AbstractBackbone, sampling: SampleConfig) -> Tensor:
    """`shaped` as what is sampled beside it.

    Raises:
        UsageError: a size that the base cannot make.
    """
    return shaped(picture, *sides(backbone, sampling))
