"""Colours of hits and ground: patterns, a lambertian with a highlight, shadows."""

import torch
from torch import Tensor

from pcs_ext.toybox.world.assembly import Assembly
from pcs_ext.toybox.world.cast import Frame, Hits, pairs, shadow_boxes
from pcs_ext.toybox.world.parts import CYLINDER
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
    """Base colours with stripes, spots, checks and zigzags laid over the patterned parts.

    The pattern is projected along the axis of the part that the surface faces most, so that every side shows it: cut
    out of space it would vanish on some (stripes on a flat roof, spots where the lattice misses a wall).
    """
    base = parts.color[hits.part]
    kind = parts.pattern[hits.part]
    on = torch.nonzero(kind > 0)[:, 0]
    if len(on) == 0:
        return base
    local = torch.stack([hits.local[k][on] for k in range(3)], 1)
    x, y, z = (local * parts.size[hits.part[on]]).unbind(1)
    reach = local.abs()
    # Cylinders and cones, the last of the parts, face along z at their ends only.
    round_ = hits.part[on] >= min(
        (first for kind, first, _ in parts.kinds if kind >= CYLINDER), default=len(parts.size)
    )
    reach[:, 2] = torch.where(round_, (reach[:, 2] > 0.999).to(reach.dtype) * 2, reach[:, 2])
    facing = reach.argmax(1)
    u, v = torch.where(facing == 0, y, x), torch.where(facing == 2, y, z)
    # Spots in rows, every second row moved by half a spot.
    row = torch.floor(v * 3.2)
    across, along = torch.remainder(u * 2.8 + 0.5 * row, 1.0) - 0.5, torch.remainder(v * 3.2, 1.0) - 0.5
    marks = torch.stack(
        [
            torch.sin(v * 18 + 0.6) > 0,
            across.square() / 2.8**2 + along.square() / 3.2**2 < 0.011,
            (torch.floor(u * 3.6 + 0.5) + torch.floor(v * 3.6)) % 2 > 0,
            torch.remainder(v * 2.2 + (torch.remainder(u * 1.8, 1.0) - 0.5).abs() * 1.2, 1.0) < 0.5,
        ]
    )
    chosen = marks.gather(0, (kind[on] - 1)[None])[0]
    plain = base[on]
    light = plain.mean(1, keepdim=True) > 0.45
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
