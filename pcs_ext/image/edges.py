"""Edges of pictures (Canny 1986, doi 10.1109/TPAMI.1986.4767851): a condition map that needs no trained detector."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMINANCE = (0.299, 0.587, 0.114)
_ACROSS = ((0, 1), (1, 1), (1, 0), (1, -1))
"""Steps (rows, columns) along a gradient that points to 0, 45, 90 and 135 degrees."""


def canny(images: Tensor, *, sigma: float = 1.0, low: float = 0.06, high: float = 0.15) -> Tensor:
    """Thin lines where brightness changes, `b 1 h w` of 0 and 1. Not differentiable.

    Gaussian blur, Sobel's gradient, the largest across each edge alone, and of what is above `low` the connected pieces
    that somewhere reach `high`.

    Args:
        images: `b 3 h w` in [-1, 1].
        sigma: of the blur, in pixels.
        low: a gradient below it is no edge; a step from black to white that is not blurred has 1 beside it.
        high: one above it is.
    """
    grey = torch.einsum("bchw,c->bhw", (images.float() + 1) / 2, images.new_tensor(_LUMINANCE, dtype=torch.float32))
    along, down = _gradient(_blurred(grey[:, None], sigma))
    strength = torch.hypot(along, down)
    thin = strength * _largest_across(strength, along, down)
    return _connected(thin > high, thin > low).float()


def _blurred(grey: Tensor, sigma: float) -> Tensor:
    reach = max(1, math.ceil(3 * sigma))
    places = torch.arange(-reach, reach + 1, dtype=torch.float32, device=grey.device)
    weights = torch.exp(-(places**2) / (2 * sigma**2))
    weights = weights / weights.sum()
    padded = F.pad(grey, [reach] * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, weights.reshape(1, 1, 1, -1)), weights.reshape(1, 1, -1, 1))


def _gradient(grey: Tensor) -> tuple[Tensor, Tensor]:
    """Sobel's, along rows and down columns, a step of 1 having 1: `b 1 h w` each."""
    difference, mean = grey.new_tensor([-1.0, 0.0, 1.0]), grey.new_tensor([0.25, 0.5, 0.25])
    kernel = torch.outer(mean, difference)
    padded = F.pad(grey, [1] * 4, mode="replicate")
    return F.conv2d(padded, kernel[None, None]), F.conv2d(padded, kernel.T[None, None].contiguous())


def _largest_across(strength: Tensor, along: Tensor, down: Tensor) -> Tensor:
    """Where no neighbour in the gradient's direction is larger; of two that are equal the first one counts."""
    octant = (torch.atan2(down, along) / (math.pi / 4)).round().long() % 4
    height, width = strength.shape[-2:]
    padded = F.pad(strength, [1] * 4)

    def shifted(rows: int, columns: int) -> Tensor:
        return padded[..., 1 + rows : 1 + rows + height, 1 + columns : 1 + columns + width]

    kept = torch.zeros_like(strength, dtype=torch.bool)
    for direction, (rows, columns) in enumerate(_ACROSS):
        largest = (strength > shifted(-rows, -columns)) & (strength >= shifted(rows, columns))
        kept |= (octant == direction) & largest
    return kept


def _connected(sure: Tensor, possible: Tensor) -> Tensor:
    """What is possible and hangs together with what is sure, over the eight neighbours."""
    found, count = sure, -1
    while int(found.sum()) != count:
        count = int(found.sum())
        found = (F.max_pool2d(found.float(), 3, stride=1, padding=1) > 0) & possible
    return found
