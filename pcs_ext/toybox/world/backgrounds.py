"""Procedural grounds and skies, one pair per context. All functions take flat rays of scenes that share the context."""

from collections.abc import Callable

import torch
from torch import Tensor

FAR = 40.0
"""Ground farther away than this is sky."""
GROUND_COLOR = {
    "sand": (0.92, 0.82, 0.56),
    "snow": (0.93, 0.95, 0.98),
    "grass": (0.30, 0.60, 0.20),
    "desert": (0.86, 0.54, 0.28),
    "night": (0.13, 0.15, 0.24),
    "floor": (0.76, 0.64, 0.52),
    "wood": (0.60, 0.38, 0.20),
    "road": (0.38, 0.38, 0.40),
    "seabed": (0.25, 0.50, 0.55),
    "rock": (0.50, 0.48, 0.45),
    "plain": (0.80, 0.80, 0.80),
}
_GRAIN = {"grass": 0.12, "rock": 0.10, "sand": 0.05, "desert": 0.08, "seabed": 0.06, "snow": 0.02, "plain": 0.0}
CONTEXT_PARTS = {
    "on the beach": ("sand", "sea"),
    "in the snow": ("snow", "winter"),
    "on the grass": ("grass", "clouds"),
    "in the desert": ("desert", "dusk"),
    "at night": ("night", "stars"),
    "in a room": ("floor", "wall"),
    "on a wooden table": ("wood", "green wall"),
    "in the city": ("road", "city"),
    "under water": ("seabed", "deep"),
    "in the mountains": ("rock", "peaks"),
    "on a plain background": ("plain", "plain"),
}
TINT = {"at night": (0.72, 0.74, 0.85), "under water": (0.72, 0.94, 1.05)}
"""What the light of a context does to everything in it."""


def waves(x: Tensor, y: Tensor, phase: Tensor) -> Tensor:
    """Smooth pseudo-noise in about [-1, 1]: a sum of four plane waves."""
    total = torch.sin(x * 3.1 + phase) + torch.sin(y * 2.7 + phase * 1.7) + torch.sin((x + y) * 1.9 + phase * 0.6)
    return (total + torch.sin(x * 7.3 - y * 5.1 + phase * 2.2) * 0.6) / 3.6


def ground(kind: str, x: Tensor, y: Tensor, phase: Tensor) -> Tensor:
    """Colour of the ground at world points, `n 3`."""
    base = x.new_tensor(GROUND_COLOR[kind]).expand(len(x), 3)
    if kind == "plain":
        return base
    broad = waves(x, y, phase)
    fine = waves(x * 5, y * 5, phase + 3)
    color = base + (_GRAIN.get(kind, 0.03) * fine + 0.03 * broad)[:, None]
    if kind == "wood":
        color = base + 0.12 * torch.sin(y * 9 + broad * 2)[:, None] * x.new_tensor((1.0, 0.8, 0.6))
    elif kind == "floor":
        color = base + 0.09 * ((torch.floor(x * 1.2) + torch.floor(y * 1.2)) % 2)[:, None]
    elif kind == "road":
        marked = torch.remainder(x.abs(), 2.4) < 0.14
        color = torch.where(marked[:, None], x.new_tensor((0.92, 0.92, 0.82)), color)
    return color


def sky(kind: str, direction: tuple[Tensor, Tensor, Tensor], phase: Tensor) -> Tensor:
    """Colour of the sky or walls along unit directions, `n 3`."""
    azimuth = torch.atan2(direction[0], direction[1])
    elevation = torch.asin(direction[2].clamp(-1, 1))
    return _SKIES[kind](azimuth, elevation, phase)


def _mix(elevation: Tensor, low: tuple[float, ...], high: tuple[float, ...]) -> Tensor:
    e = (elevation / 0.9).clamp(0, 1)[:, None]
    return elevation.new_tensor(low) * (1 - e) + elevation.new_tensor(high) * e


def _where(condition: Tensor, color: tuple[float, ...] | Tensor, otherwise: Tensor) -> Tensor:
    color = color if isinstance(color, Tensor) else otherwise.new_tensor(color)
    return torch.where(condition[:, None], color, otherwise)


def _sea(a: Tensor, e: Tensor, s: Tensor) -> Tensor:
    return _where(e < 0.06, (0.10, 0.45, 0.70), _mix(e, (0.75, 0.90, 1.0), (0.35, 0.65, 0.95)))


def _winter(a: Tensor, e: Tensor, s: Tensor) -> Tensor:
    return _mix(e, (0.85, 0.90, 0.95), (0.60, 0.72, 0.85))


def _clouds(a: Tensor, e: Tensor, s: Tensor) -> Tensor:
    return _where(waves(a * 3, e * 9, s) > 0.45, (0.97, 0.97, 1.0), _mix(e, (0.80, 0.92, 1.0), (0.35, 0.60, 0.95)))


def _dusk(a: Tensor, e: Tensor, s: Tensor) -> Tensor:
    return _mix(e, (1.0, 0.75, 0.45), (0.60, 0.35, 0.50))


def _stars(a: Tensor, e: Tensor, s: Tensor) -> Tensor:
    # A whole number of waves around the horizon, so that the panorama closes.
    star = torch.sin(a * 46 + s) * torch.sin(e * 61.7 + s * 2) > 0.965
    return _where(star, (1.0, 1.0, 0.85), _mix(e, (0.10, 0.10, 0.22), (0.02, 0.02, 0.08)))


def _wall(a: Tensor, e: Tensor, s: Tensor) -> Tensor:
    window = (torch.remainder(a * 4 / torch.pi + s, 1.0) - 0.5).abs() < 0.2
    return _where(window & (e > 0.12) & (e < 0.38), (0.60, 0.80, 0.95), _mix(e, (0.88, 0.82, 0.70), (0.80, 0.74, 0.62)))


def _green_wall(a: Tensor, e: Tensor, s: Tensor) -> Tensor:
    return _mix(e, (0.60, 0.70, 0.65), (0.45, 0.55, 0.50))


def _city(a: Tensor, e: Tensor, s: Tensor) -> Tensor:
    turn = a * 16 / torch.pi
    block = torch.remainder(torch.floor(turn + s), 32.0)
    lit = (torch.floor(turn * 8) % 2 == 0) & (torch.floor(e * 40) % 2 == 0)
    facade = _where(lit, (0.95, 0.90, 0.60), a.new_tensor((0.40, 0.42, 0.50)) + 0.1 * torch.sin(block)[:, None])
    height = 0.15 + 0.28 * torch.sin(block * 12.9898).abs()
    return _where(e < height, facade, _mix(e, (0.85, 0.85, 0.90), (0.55, 0.65, 0.85)))


def _deep(a: Tensor, e: Tensor, s: Tensor) -> Tensor:
    return _mix(e, (0.10, 0.40, 0.60), (0.20, 0.65, 0.80))


def _peaks(a: Tensor, e: Tensor, s: Tensor) -> Tensor:
    ridge = 0.20 + 0.12 * torch.sin(a * 3 + s).abs() + 0.06 * torch.sin(a * 7 + s * 2)
    stone = _where(e > ridge - 0.07, (0.95, 0.95, 1.0), a.new_tensor((0.40, 0.42, 0.50)).expand(len(a), 3))
    return _where(e < ridge, stone, _mix(e, (0.80, 0.90, 1.0), (0.40, 0.60, 0.90)))


def _plain(a: Tensor, e: Tensor, s: Tensor) -> Tensor:
    return a.new_tensor((0.88, 0.88, 0.88)).expand(len(a), 3)


_SKIES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "sea": _sea,
    "winter": _winter,
    "clouds": _clouds,
    "dusk": _dusk,
    "stars": _stars,
    "wall": _wall,
    "green wall": _green_wall,
    "city": _city,
    "deep": _deep,
    "peaks": _peaks,
    "plain": _plain,
}
