"""Styles as image filters in torch. Images `n 3 h w` in [0, 1], float32; every image is filtered by itself."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def stylize(images: Tensor, style: str) -> Tensor:
    """Images in one of `STYLES`; photos come back as they are."""
    if style == "a pencil sketch of":
        return _pencil(images)
    if style == "pixel art of":
        return _pixel_art(images)
    if style == "an oil painting of":
        return _oil(images)
    if style == "flat vector art of":
        return _flat(images)
    return images


def _scale(images: Tensor) -> float:
    """Side relative to 64 pixels: filters keep their look when the resolution changes."""
    return images.shape[-2] / 64


def _blur(images: Tensor, sigma: float) -> Tensor:
    radius = max(1, round(2.5 * sigma))
    x = torch.arange(-radius, radius + 1, device=images.device, dtype=images.dtype)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = (kernel / kernel.sum())[None, None]
    n, c, h, w = images.shape
    flat = images.reshape(n * c, 1, h, w)
    flat = F.conv2d(F.pad(flat, (radius, radius, 0, 0), mode="replicate"), kernel[:, :, None, :])
    flat = F.conv2d(F.pad(flat, (0, 0, radius, radius), mode="replicate"), kernel[:, :, :, None])
    return flat.reshape(n, c, h, w)


def _gray(images: Tensor) -> Tensor:
    return (images * images.new_tensor((0.299, 0.587, 0.114))[:, None, None]).sum(1, keepdim=True)


def _pencil(images: Tensor) -> Tensor:
    """Colour dodge of the gray picture with its blurred negative, hatching in the dark parts, a wash of crayon."""
    gray = _gray(images)
    dodge = (gray / (1.004 - _blur(1 - gray, 1.3 * _scale(images)))).clamp(0, 1)
    lines = 1 - (1 - dodge) * 2.0
    h, w = gray.shape[-2:]
    y, x = torch.meshgrid(torch.arange(h, device=gray.device), torch.arange(w, device=gray.device), indexing="ij")
    hatch = ((x + y) % max(2, round(3 * _scale(images))) == 0).to(gray.dtype)
    shaded = (lines - 0.22 * hatch * (gray < 0.45)).clamp(0, 1) * 0.94 + 0.05
    # Without the wash a sketch shows no colour, and its caption would name one.
    return shaded * (1 - 0.6 * (1 - _blur(images, 0.6 * _scale(images))))


def _pixel_art(images: Tensor) -> Tensor:
    """Averages of big square pixels, colours rounded to six levels per channel."""
    side = max(2, round(2 * _scale(images)))
    h, w = images.shape[-2:]
    small = F.interpolate(images, size=(max(1, h // side), max(1, w // side)), mode="area")
    return F.interpolate((small * 5).round() / 5, size=(h, w), mode="nearest")


def _oil(images: Tensor) -> Tensor:
    """Broad strokes, rich colours and the contrast of thick paint on a visible canvas."""
    painted = _kuwahara(images, 2.6)
    gray = _gray(painted)
    rich = gray + (painted - gray) * 1.3
    return ((rich - 0.5) * 1.2 + 0.5 + 0.06 * _canvas(painted)).clamp(0, 1)


def _kuwahara(images: Tensor, radius: float) -> Tensor:
    """The mean of the calmest of four corner windows; `radius` in pixels of a 64-pixel picture."""
    r = max(1, round(radius * _scale(images)))
    gray = _gray(images)
    stacked = torch.cat([images, gray, gray * gray], 1)
    padded = F.pad(stacked, (r, r, r, r), mode="replicate")
    mean = F.avg_pool2d(padded, r + 1, stride=1)
    h, w = images.shape[-2:]
    corners = torch.stack([mean[:, :, y : y + h, x : x + w] for y in (0, r) for x in (0, r)])
    variance = corners[:, :, 4] - corners[:, :, 3] ** 2
    calmest = variance.argmin(0)[None, :, None].expand(1, -1, 3, -1, -1)
    return corners[:, :, :3].gather(0, calmest)[0]


def _canvas(images: Tensor) -> Tensor:
    """Weave of the canvas under the paint, in [-1, 1]."""
    h, w = images.shape[-2:]
    y, x = torch.meshgrid(torch.arange(h, device=images.device), torch.arange(w, device=images.device), indexing="ij")
    turn = 2 * math.pi / (4 * _scale(images))
    return torch.sin(turn * (x + y)) * torch.sin(turn * (x - y))


def _flat(images: Tensor) -> Tensor:
    """Smoothed, then rounded to five levels of saturated colour: few flat areas."""
    smooth = _kuwahara(_kuwahara(images, 1.5), 1.5)
    gray = _gray(smooth)
    vivid = (gray + (smooth - gray) * 1.3).clamp(0, 1)
    return (vivid * 4.999).floor() / 4 * 0.95 + 0.05
