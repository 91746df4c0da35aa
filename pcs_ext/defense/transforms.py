"""What may happen to a photo before an attacker trains on it, differentiable (expectation over transforms).

All take and return images `b 3 h w` in [-1, 1] of the same size and draw from the generator they are given. Athalye
et al. 2018 (arXiv 1707.07397) for the idea; MetaCloak (arXiv 2311.13127) for resizing, cropping, blur and mirroring.
"""

import functools
import math
from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

import torch
import torch.nn.functional as F
from pydantic import Discriminator
from torch import Tensor

from pcs_ext.config_io import config


def _uniform(low: float, high: float, generator: torch.Generator) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


@config
class Resize:
    """Down to a share of the size and back."""

    kind: Literal["resize"] = "resize"
    chance: float = 0.5
    """How often it happens, in [0, 1]."""
    smallest: float = 0.5
    """Smallest share of the side, in (0, 1]; drawn uniformly up to 1."""

    def apply(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Bicubic with anti-aliasing, both ways."""
        size = images.shape[-2:]
        share = _uniform(self.smallest, 1, generator)
        small = (max(1, round(size[0] * share)), max(1, round(size[1] * share)))
        return _resized(_resized(images, small), (size[0], size[1]))


@config
class Crop:
    """A random part, enlarged to the full size."""

    kind: Literal["crop"] = "crop"
    chance: float = 0.5
    """How often it happens, in [0, 1]."""
    smallest: float = 0.8
    """Smallest share of the side, in (0, 1]."""

    def apply(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Same share of both sides."""
        height, width = images.shape[-2:]
        share = _uniform(self.smallest, 1, generator)
        rows, columns = max(1, round(height * share)), max(1, round(width * share))
        top = int(torch.randint(height - rows + 1, (), generator=generator))
        left = int(torch.randint(width - columns + 1, (), generator=generator))
        return _resized(images[..., top : top + rows, left : left + columns], (height, width))


@config
class Blur:
    """Gaussian blur; 7 taps in MetaCloak."""

    kind: Literal["blur"] = "blur"
    chance: float = 0.5
    """How often it happens, in [0, 1]."""
    taps: int = 7
    """Width of the kernel, odd."""
    largest_sigma: float = 1.5
    """In pixels; drawn uniformly from 0.1."""

    def apply(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Edges are mirrored."""
        return gaussian_blur(images, _uniform(0.1, self.largest_sigma, generator), self.taps)


@config
class Flip:
    """Mirror left and right."""

    kind: Literal["flip"] = "flip"
    chance: float = 0.5
    """How often it happens, in [0, 1]."""

    def apply(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Nothing is drawn."""
        return images.flip(-1)


@config
class Jpeg:
    """JPEG with 4:2:0 colours, rounding replaced by the identity in the backward pass."""

    kind: Literal["jpeg"] = "jpeg"
    chance: float = 0.5
    """How often it happens, in [0, 1]."""
    lowest: int = 60
    """Lowest quality, 1 to 100; drawn uniformly up to `highest`."""
    highest: int = 95
    """Highest quality."""

    def apply(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """One quality for the batch."""
        return jpeg(images, round(_uniform(self.lowest, self.highest, generator)))


Transform: TypeAlias = Annotated[Resize | Crop | Blur | Flip | Jpeg, Discriminator("kind")]
"""Every transform's configuration; the field `kind` says which one a JSON object is."""


def apply_all(transforms: Sequence[Transform], images: Tensor, generator: torch.Generator) -> Tensor:
    """Each transform with its chance, in order."""
    for transform in transforms:
        if float(torch.rand((), generator=generator)) < transform.chance:
            images = transform.apply(images, generator)
    return images.clamp(-1, 1)


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    return F.interpolate(images, size=size, mode="bicubic", antialias=True, align_corners=False)


def gaussian_blur(images: Tensor, sigma: float, taps: int) -> Tensor:
    """Separable Gaussian of `taps` weights that sum to one; images `b c h w` wider than half the kernel."""
    places = torch.arange(taps, dtype=images.dtype, device=images.device) - taps // 2
    kernel = torch.exp(-places.square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, taps)
    half, groups = taps // 2, images.shape[1]
    padded = F.pad(images, (half, half, half, half), mode="reflect")
    return F.conv2d(F.conv2d(padded, kernel, groups=groups), kernel.transpose(2, 3), groups=groups)


# ITU-T T.81, Annex K.1: the example tables that libjpeg scales by quality.
_LUMA = """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 62
18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99"""
_CHROMA = """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 99
99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99"""


def jpeg(images: Tensor, quality: int, *, subsampling: bool = True) -> Tensor:
    """Images after JPEG at a quality of 1 to 100, `b 3 h w` in [-1, 1]; gradients pass through the rounding.

    Args:
        images: in [-1, 1].
        quality: as libjpeg counts it.
        subsampling: 4:2:0, else 4:4:4.
    """
    height, width = images.shape[-2:]
    planes = _to_ycbcr((images + 1) * 127.5)
    unit = 16 if subsampling else 8
    planes = F.pad(planes, (0, -width % unit, 0, -height % unit), mode="replicate")
    luma, chroma = planes[:, :1], planes[:, 1:]
    luma = _through_blocks(luma, _table(_LUMA, quality))
    if subsampling:
        chroma = F.avg_pool2d(chroma, 2)
    chroma = _through_blocks(chroma, _table(_CHROMA, quality))
    if subsampling:
        chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear", align_corners=False)
    rgb = _to_rgb(torch.cat([luma, chroma], 1))[..., :height, :width]
    return (_rounded(rgb) / 127.5 - 1).clamp(-1, 1)


def _rounded(values: Tensor) -> Tensor:
    return values + (values.round() - values).detach()


def _table(numbers: str, quality: int) -> Tensor:
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    table = torch.tensor([float(number) for number in numbers.split()]).reshape(8, 8)
    return ((table * scale + 50) / 100).floor().clamp(1, 255)


@functools.cache
def _cosines() -> Tensor:
    """The orthonormal DCT-II of 8 points, `8 8`."""
    k, n = torch.arange(8.0)[:, None], torch.arange(8.0)
    basis = torch.cos(math.pi * (2 * n + 1) * k / 16) / 2
    return torch.cat([basis[:1] / math.sqrt(2), basis[1:]])


def _through_blocks(planes: Tensor, table: Tensor) -> Tensor:
    batch, channels, height, width = planes.shape
    basis, table = _cosines().to(planes), table.to(planes)
    blocks = (planes - 128).reshape(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4)
    coefficients = _rounded(basis @ blocks @ basis.T / table) * table
    blocks = (basis.T @ coefficients @ basis).transpose(3, 4)
    return blocks.reshape(batch, channels, height, width) + 128


_YCBCR = ((0.299, 0.587, 0.114), (-0.168736, -0.331264, 0.5), (0.5, -0.418688, -0.081312))


def _to_ycbcr(rgb: Tensor) -> Tensor:
    mixed = torch.einsum("ij,bjhw->bihw", torch.tensor(_YCBCR).to(rgb), rgb)
    return mixed + torch.tensor([0.0, 128.0, 128.0]).to(rgb)[:, None, None]


def _to_rgb(ycbcr: Tensor) -> Tensor:
    centred = ycbcr - torch.tensor([0.0, 128.0, 128.0]).to(ycbcr)[:, None, None]
    return torch.einsum("ij,bjhw->bihw", torch.linalg.inv(torch.tensor(_YCBCR)).to(ycbcr), centred)
