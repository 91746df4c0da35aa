"""Colours of hits and ground: patterns, a lambertian with a highlight, shadows."""

import torch
from torch import Tensor

from pcs_ext.toybox.world.assembly import Assembly
from pcs_ext.toybox.world.cast import Frame, Hits, pairs, shadow_boxes
from pcs_ext.toybox.world.vocabulary import PATTERNS


def shade(parts: Assembly, hits: Hits, frame: Frame, lights: Tensor) -> Tensor:
    """Colour of every hit, `H 3`; `lights` are unit vectors towards the light, one per scene."""
    base = _pattern(parts, hits)
    light = lights[parts.scene[hits.part]]
    n = torch.stack(hits.normal, 1)
    view = torch.stack([d[hits.ray] for d in frame.directions], 1)
    diffuse = (n * light).sum(1).clamp(0, 1)
    half = torch.nn.functional.normalize(light - view, dim=1)
    highlight = 0.18 * (n * half).sum(1).clamp(0, 1) ** 30
    return base * (0.5 + 0.12 * n[:, 2] + 0.6 * diffuse)[:, None] + highlight[:, None]


def _pattern(parts: Assembly, hits: Hits) -> Tensor:
    """Base colours with stripes, spots, checks and zigzags laid over the patterned parts, in the part's own frame."""
    base = parts.color[hits.part]
    kind = parts.pattern[hits.part]
    on = torch.nonzero(kind > 0)[:, 0]
    if len(on) == 0:
        return base
    size = parts.size[hits.part[on]]
    x, y, z = (hits.local[k][on] * size[:, k] for k in range(3))
    marks = torch.stack(
        [
            torch.sin(z * 21) > 0,
            torch.sin(x * 11 + 0.8) * torch.sin(y * 11 + 1) * torch.sin(z * 11 + 0.5) > 0.22,
            (torch.floor(x * 3.6) + torch.floor(y * 3.6) + torch.floor(z * 3.6)) % 2 > 0,
            torch.remainder(z * 2.2 + (torch.remainder((x + y) * 1.8, 1.0) - 0.5).abs() * 1.2, 1.0) < 0.5,
        ]
    )
    chosen = marks.gather(0, (kind[on] - 1)[None])[0]
    plain = base[on]
    light = plain.mean(1, keepdim=True) > 0.6
    mark = torch.where(light, plain * 0.35, plain * 0.35 + 0.65)
    base[on] = torch.where(chosen[:, None], mark, plain)
    return base


assert PATTERNS[1:] == ("striped", "spotted", "checkered", "zigzag"), "the order of `marks` above"


def shadowed(parts: Assembly, frame: Frame, lights: Tensor, on_ground: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Which ground points lie in shadow (bool per ray); every part casts the shadow of its inscribed ellipsoid.

    Args:
        on_ground: bool per ray.
        x, y: where the rays meet the ground; read only where `on_ground`.
    """
    dark = torch.zeros_like(on_ground)
    boxes = shadow_boxes(parts, lights, frame)
    ray, part, _ = pairs(boxes, parts.scene, frame, [len(parts.scene)])
    kept = torch.nonzero(on_ground[ray])[:, 0]
    ray, part = ray[kept], part[kept]
    inverse, light = parts.inverse[part], lights[parts.scene[part]]
    offset = torch.stack([x[ray], y[ray], torch.zeros_like(x[ray])], 1) - parts.center[part]
    o = (inverse * offset[:, None]).sum(-1)
    d = (inverse * light[:, None]).sum(-1)
    a, b, c = (d * d).sum(1), (o * d).sum(1), (o * o).sum(1) - 1
    discriminant = b * b - a * c
    met = (discriminant > 0) & (discriminant.clamp_min(0).sqrt() - b > 1e-3 * a)
    dark[ray[met]] = True
    return dark
