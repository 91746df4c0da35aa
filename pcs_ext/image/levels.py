"""Pictures as files hold them: 8-bit levels, a quarter of the memory of floats."""

import torch
from PIL import Image
from torch import Tensor


def levels_of(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1], of any shape -> uint8, rounded to nearest; what lies outside is cut."""
    return ((pixels.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


def pixels_of(levels: Tensor) -> Tensor:
    """Inverse of `levels_of`, float32."""
    return levels.float() / 127.5 - 1


def in_unit_range(pixels: Tensor) -> Tensor:
    """uint8 levels -> float32 in [-1, 1]; floats are there already. Any shape."""
    return pixels_of(pixels) if pixels.dtype == torch.uint8 else pixels


def to_pil(image: Tensor) -> Image.Image:
    """An image `3 h w` in [-1, 1] as 8-bit RGB, rounded to nearest."""
    return Image.fromarray(levels_of(image).permute(1, 2, 0).cpu().numpy())
