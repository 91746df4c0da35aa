"""How different two pictures look in colour: CIEDE2000, the distance that is even over what people tell apart.

Sharma, Wu and Dalal 2005, "The CIEDE2000 color-difference formula" (equation numbers below). About 1 is just visible
side by side on flat colours; in texture more goes unseen.
"""

import torch
from torch import Tensor

_ROWS = 64
"""Rows that are worked on at once, so that large photos need no copies of themselves."""
_WHITE = (0.95047, 1.0, 1.08883)
_TO_XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750), (0.0193339, 0.1191920, 0.9503041))


def color_difference(first: Tensor, second: Tensor) -> float:
    """Mean CIEDE2000 over all pixels of two uint8 pictures `c h w` taken as sRGB; gray ones have one channel."""
    total = 0.0
    for a, b in zip(first.split(_ROWS, 1), second.split(_ROWS, 1), strict=True):
        total += float(ciede2000(to_lab(a), to_lab(b)).double().sum())
    return total / first[0].numel()


def to_lab(picture: Tensor) -> Tensor:
    """uint8 sRGB `c h w` -> CIE L*a*b* `3 h w` (D65)."""
    encoded = picture.expand(3, -1, -1).float() / 255
    linear = torch.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)
    xyz = torch.einsum("ij,jhw->ihw", torch.tensor(_TO_XYZ), linear) / torch.tensor(_WHITE)[:, None, None]
    root = torch.where(xyz > (6 / 29) ** 3, xyz.clamp_min(1e-12) ** (1 / 3), xyz / (3 * (6 / 29) ** 2) + 4 / 29)
    return torch.stack([116 * root[1] - 16, 500 * (root[0] - root[1]), 200 * (root[1] - root[2])])


def ciede2000(first: Tensor, second: Tensor) -> Tensor:
    """Distance of L*a*b* colours `3 ...`, shaped `...` (eq. 2 to 22, all weights 1)."""
    chroma = [torch.hypot(lab[1], lab[2]) for lab in (first, second)]
    grown = (0.5 * (chroma[0] + chroma[1])) ** 7
    stretch = 1.5 - 0.5 * torch.sqrt(grown / (grown + 25**7))
    chromas = [torch.hypot(stretch * lab[1], lab[2]) for lab in (first, second)]
    hues = [torch.rad2deg(torch.atan2(lab[2], stretch * lab[1])) % 360 for lab in (first, second)]
    gray = chromas[0] * chromas[1] == 0
    turn = hues[1] - hues[0]
    turn = torch.where(gray, 0.0, turn - 360 * (turn > 180).float() + 360 * (turn < -180).float())
    step = 2 * torch.sqrt(chromas[0] * chromas[1]) * torch.sin(torch.deg2rad(turn / 2))
    light, color, hue = (first[0] + second[0]) / 2, (chromas[0] + chromas[1]) / 2, _mean_hue(hues, gray)
    weight_light = 1 + 0.015 * (light - 50) ** 2 / torch.sqrt(20 + (light - 50) ** 2)
    weight_hue = 1 + 0.015 * color * _hue_term(hue)
    parts = [
        (second[0] - first[0]) / weight_light,
        (chromas[1] - chromas[0]) / (1 + 0.045 * color),
        step / weight_hue,
    ]
    grown = color**7
    rotation = torch.sin(torch.deg2rad(60 * torch.exp(-(((hue - 275) / 25) ** 2))))
    rotation = -2 * torch.sqrt(grown / (grown + 25**7)) * rotation
    square = parts[0] ** 2 + parts[1] ** 2 + parts[2] ** 2 + rotation * parts[1] * parts[2]
    return square.clamp_min(0).sqrt()


def _mean_hue(hues: list[Tensor], gray: Tensor) -> Tensor:
    """Mean of two angles in degrees, the short way round (eq. 14)."""
    total, apart = hues[0] + hues[1], (hues[0] - hues[1]).abs() > 180
    mean = torch.where(apart, torch.where(total < 360, total + 360, total - 360), total) / 2
    return torch.where(gray, total, mean)


def _hue_term(hue: Tensor) -> Tensor:
    """T of eq. 15."""

    def cosine(factor: float, offset: float) -> Tensor:
        return torch.cos(torch.deg2rad(factor * hue + offset))

    return 1 - 0.17 * cosine(1, -30) + 0.24 * cosine(2, 0) + 0.32 * cosine(3, 6) - 0.20 * cosine(4, -63)
