"""Styles as image filters in torch. Images `n 3 h w` in [0, 1], float32; every image is filtered by itself."""

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
    """Colour dodge of the gray picture with its blurred negative, then hatching in the dark parts."""
    gray = _gray(images)
    dodge = (gray / (1.004 - _blur(1 - gray, 1.3 * _scale(images)))).clamp(0, 1)
    lines = 1 - (1 - dodge) * 2.0
    h, w = gray.shape[-2:]
    y, x = torch.meshgrid(torch.arange(h, device=gray.device), torch.arange(w, device=gray.device), indexing="ij")
    hatch = ((x + y) % max(2, round(3 * _scale(images))) == 0).to(gray.dtype)
    shaded = lines - 0.22 * hatch * (gray < 0.45)
    return (shaded.clamp(0, 1) * 0.94 + 0.05).expand(-1, 3, -1, -1).contiguous()


def _pixel_art(images: Tensor) -> Tensor:
    """Averages of big square pixels, colours rounded to six levels per channel."""
    side = max(2, round(3.2 * _scale(images)))
    h, w = images.shape[-2:]
    small = F.interpolate(images, size=(max(1, h // side), max(1, w // side)), mode="area")
    return F.interpolate((small * 5).round() / 5, size=(h, w), mode="nearest")


def _oil(images: Tensor) -> Tensor:
    """Kuwahara filter: the mean of the calmest of four corner windows, with the contrast of thick paint."""
    r = max(1, round(1.5 * _scale(images)))
    gray = _gray(images)
    stacked = torch.cat([images, gray, gray * gray], 1)
    padded = F.pad(stacked, (r, r, r, r), mode="replicate")
    mean = F.avg_pool2d(padded, r + 1, stride=1)
    h, w = images.shape[-2:]
    corners = torch.stack([mean[:, :, y : y + h, x : x + w] for y in (0, r) for x in (0, r)])
    variance = corners[:, :, 4] - corners[:, :, 3] ** 2
    calmest = variance.argmin(0)[None, :, None].expand(1, -1, 3, -1, -1)
    painted = corners[:, :, :3].gather(0, calmest)[0]
    return ((painted - 0.5) * 1.18 + 0.5).clamp(0, 1)


def _flat(images: Tensor) -> Tensor:
    """Smoothed, then rounded to four levels of saturated colour: few flat areas."""
    smooth = _oil(_oil(images))
    gray = _gray(smooth)
    vivid = (gray + (smooth - gray) * 1.45).clamp(0, 1)
    return (vivid * 3.999).floor() / 3.3333 * 0.98 + 0.05
