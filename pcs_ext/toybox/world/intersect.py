"""Closed-form hits of rays with unit primitives, element by element.

All functions take ray origins and directions in the primitive's own frame as separate x, y, z tensors and return the
ray parameter of the nearest hit in front of the origin, `inf` where there is none. Directions need not be unit.
"""

import torch
from torch import Tensor

from pcs_ext.toybox.world.parts import BOX, CONE, CYLINDER, SPHERE

NEAR = 1e-3
"""Hits nearer than this are ignored."""

Vectors = tuple[Tensor, Tensor, Tensor]


def hit(kind: int, origin: Vectors, direction: Vectors) -> Tensor:
    """Ray parameter of the nearest hit with a unit primitive of one kind."""
    return {SPHERE: _sphere, BOX: _box, CYLINDER: _cylinder, CONE: _cone}[kind](*origin, *direction)


def normal(kind: int, x: Tensor, y: Tensor, z: Tensor) -> Vectors:
    """Outward normal (any length) of a unit primitive at points of its surface."""
    zero = torch.zeros_like(x)
    if kind == SPHERE:
        return x, y, z
    if kind == BOX:
        ax, ay, az = x.abs(), y.abs(), z.abs()
        on_x = (ax >= ay) & (ax >= az)
        on_y = ~on_x & (ay >= az)
        on_z = ~on_x & ~on_y
        return torch.where(on_x, x, zero), torch.where(on_y, y, zero), torch.where(on_z, z, zero)
    radius = torch.sqrt(x * x + y * y)
    if kind == CYLINDER:
        cap = z.abs() > radius
        return torch.where(cap, zero, x), torch.where(cap, zero, y), torch.where(cap, z, zero)
    base = (z + 1).abs() < (radius - (1 - z) * 0.5).abs()
    side_z = (1 - z) * 0.25
    return torch.where(base, zero, x), torch.where(base, zero, y), torch.where(base, zero - 1, side_z)


def _sphere(ox: Tensor, oy: Tensor, oz: Tensor, dx: Tensor, dy: Tensor, dz: Tensor) -> Tensor:
    a = dx * dx + dy * dy + dz * dz
    b = dx * ox + dy * oy + dz * oz
    # |o - (b/a) d|² <= 1 is the discriminant without the cancellation of b² - a c for far origins.
    s = b / a
    qx, qy, qz = ox - s * dx, oy - s * dy, oz - s * dz
    inside = 1 - (qx * qx + qy * qy + qz * qz)
    t = -s - torch.sqrt(inside.clamp_min(0) / a)
    return torch.where((inside > 0) & (t > NEAR), t, torch.inf)


def _box(ox: Tensor, oy: Tensor, oz: Tensor, dx: Tensor, dy: Tensor, dz: Tensor) -> Tensor:
    first, last = _slab(ox, dx)
    for o, d in ((oy, dy), (oz, dz)):
        low, high = _slab(o, d)
        first, last = torch.maximum(first, low), torch.minimum(last, high)
    return torch.where((first < last) & (first > NEAR), first, torch.inf)


def _slab(o: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
    inverse = 1 / _away_from_zero(d)
    middle, half = -o * inverse, inverse.abs()
    return middle - half, middle + half


def _away_from_zero(d: Tensor) -> Tensor:
    return torch.where(d.abs() < 1e-9, 1e-9, d)


def _cylinder(ox: Tensor, oy: Tensor, oz: Tensor, dx: Tensor, dy: Tensor, dz: Tensor) -> Tensor:
    # A convex body: the interval inside the infinite tube met with the interval between the caps.
    a = (dx * dx + dy * dy).clamp_min(1e-12)
    s = (dx * ox + dy * oy) / a
    qx, qy = ox - s * dx, oy - s * dy
    inside = 1 - (qx * qx + qy * qy)
    half = torch.sqrt(inside.clamp_min(0) / a)
    low, high = _slab(oz, dz)
    first, last = torch.maximum(-s - half, low), torch.minimum(-s + half, high)
    return torch.where((inside > 0) & (first < last) & (first > NEAR), first, torch.inf)


def _cone(ox: Tensor, oy: Tensor, oz: Tensor, dx: Tensor, dy: Tensor, dz: Tensor) -> Tensor:
    k, m = (1 - oz) * 0.5, dz * -0.5  # radius of the cone at the ray's height: k + t m
    a = _away_from_zero(dx * dx + dy * dy - m * m)
    b = dx * ox + dy * oy - m * k
    c = ox * ox + oy * oy - k * k
    root = torch.sqrt((b * b - a * c).clamp_min(0))
    real = b * b > a * c
    best = torch.full_like(ox, torch.inf)
    for sign in (-1.0, 1.0):
        t = (root * sign - b) / a
        height = oz + t * dz
        ok = real & (height > -1) & (height < 1) & (t > NEAR)
        best = torch.where(ok, torch.minimum(best, t), best)
    t = (-1 - oz) / _away_from_zero(dz)
    x, y = ox + t * dx, oy + t * dy
    return torch.where((x * x + y * y < 1) & (t > NEAR), torch.minimum(best, t), best)
