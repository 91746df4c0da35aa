"""Toys as assemblies of spheres, boxes, cylinders and cones, and the builder they are written with."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

from pcs_ext.toybox.world.scene import SceneObject, Vector, color_rgb

SPHERE, BOX, CYLINDER, CONE = range(4)
"""Unit primitives: |p| <= 1; |x|,|y|,|z| <= 1; x²+y² <= 1 and |z| <= 1; the cone's apex is z = 1, its base z = -1."""

Rotation = tuple[Vector, Vector, Vector]
IDENTITY: Rotation = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
DARK: Vector = (0.07, 0.07, 0.08)
WHITE: Vector = (0.97, 0.97, 0.97)


@dataclasses.dataclass(frozen=True, slots=True)
class Part:
    """A unit primitive under x -> rotation diag(size) x + center, in the object's frame."""

    name: str
    kind: int
    size: Vector
    center: Vector
    rotation: Rotation
    color: Vector
    patterned: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Anchors:
    """Where accessories go."""

    head: tuple[float, float, float, float]
    """Top of the head: x, y, z and its radius."""
    neck: tuple[float, float, float, float, float]
    """Middle of the neck: x, y, z and the ring's half widths along x and y."""
    neck_kind: int = CYLINDER
    """Shape of what the scarf goes around: CYLINDER or BOX."""


class Builder:
    """Collects the parts of one object. `main` and `second` are its colours, `vary` consumes its proportions."""

    def __init__(self, toy: SceneObject) -> None:
        self.parts: list[Part] = []
        self.main = color_rgb(toy.color)
        self.second = color_rgb(toy.second_color)
        self._overrides = {name: color_rgb(color) for name, color in toy.part_colors}
        self._draws = iter(toy.proportions)

    def vary(self, amount: float = 0.15) -> float:
        """A factor 1 ± amount from the next proportion."""
        return max(0.35, 1 + amount * next(self._draws))

    def add(
        self,
        name: str,
        kind: int,
        size: Vector,
        center: Vector,
        color: Vector,
        rotation: Rotation = IDENTITY,
        patterned: bool = False,
    ) -> None:
        """Add one primitive of half sizes `size`."""
        color = self._overrides.get(name, color)
        self.parts.append(Part(name, kind, size, center, rotation, color, patterned))

    def sphere(self, name: str, size: Vector | float, center: Vector, color: Vector, **options) -> None:
        """Add an ellipsoid."""
        full = size if isinstance(size, tuple) else (size, size, size)
        self.add(name, SPHERE, full, center, color, **options)

    def box(self, name: str, size: Vector, center: Vector, color: Vector, **options) -> None:
        """Add a box of half sizes `size`."""
        self.add(name, BOX, size, center, color, **options)

    def cylinder(self, name: str, radius: float, half: float, center: Vector, color: Vector, **options) -> None:
        """Add a cylinder along its local z."""
        self.add(name, CYLINDER, (radius, radius, half), center, color, **options)

    def cone(self, name: str, size: Vector, center: Vector, color: Vector, **options) -> None:
        """Add a cone with its apex at local +z."""
        self.add(name, CONE, size, center, color, **options)

    def rod(self, name: str, start: Vector, end: Vector, radius: float, color: Vector, **options) -> None:
        """Add a cylinder from one point to another, with a round far end."""
        axis = tuple(b - a for a, b in zip(start, end, strict=True))
        length = math.sqrt(sum(a * a for a in axis))
        middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2, (start[2] + end[2]) / 2
        rotation = _align(tuple(a / length for a in axis))
        self.add(name, CYLINDER, (radius, radius, length / 2), middle, color, rotation=rotation, **options)
        self.add(name, SPHERE, (radius, radius, radius), end, color, **options)

    def chain(self, name: str, points: Sequence[Vector], radius: float, color: Vector, **options) -> None:
        """Add a bent rod through several points."""
        for start, end in itertools.pairwise(points):
            self.rod(name, start, end, radius, color, **options)


def rotation_x(degrees: float) -> Rotation:
    """Rotation matrix about x."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return ((1.0, 0.0, 0.0), (0.0, c, -s), (0.0, s, c))


def rotation_y(degrees: float) -> Rotation:
    """Rotation matrix about y."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return ((c, 0.0, s), (0.0, 1.0, 0.0), (-s, 0.0, c))


def rotation_z(degrees: float) -> Rotation:
    """Rotation matrix about z."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return ((c, -s, 0.0), (s, c, 0.0), (0.0, 0.0, 1.0))


def matmul(a: Rotation, b: Rotation) -> Rotation:
    """Product of two 3 x 3 matrices."""
    columns = tuple(zip(*b, strict=True))
    rows = tuple(tuple(r[0] * c[0] + r[1] * c[1] + r[2] * c[2] for c in columns) for r in a)
    return rows  # type: ignore[return-value]


def apply(a: Rotation, v: Vector) -> Vector:
    """Matrix times vector."""
    x, y, z = (r[0] * v[0] + r[1] * v[1] + r[2] * v[2] for r in a)
    return x, y, z


def _align(axis: tuple[float, ...]) -> Rotation:
    """A rotation that takes z to the unit vector `axis`."""
    x, y, z = axis
    flat = math.hypot(x, y)
    if flat < 1e-6:
        return IDENTITY if z > 0 else rotation_x(180)
    ux, uy = -y / flat, x / flat  # horizontal unit vector across the axis
    vx, vy, vz = uy * z, -ux * z, ux * y - uy * x
    return ((ux, vx, x), (uy, vy, y), (0.0, vz, z))


ToyFunction = Callable[[Builder], Anchors]
