"""A vector picture as values: cubic paths with paint, in drawing order. Coordinates are the file's user units."""

import dataclasses
from typing import Literal

import torch
from torch import Tensor

Rule = Literal["nonzero", "evenodd"]
Cap = Literal["butt", "round", "square"]
Join = Literal["miter", "round", "bevel"]


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Subpath:
    """A chain of cubic Béziers whose neighbours share their end points."""

    points: Tensor
    """Control points `n 2`: 3 per segment, and one more where the chain is open. Differentiable."""
    closed: bool
    """Whether the last segment ends in the first point."""

    def __post_init__(self) -> None:
        rest = self.points.shape[0] % 3
        assert rest == (0 if self.closed else 1), tuple(self.points.shape)
        assert self.points.shape[0] >= 3, tuple(self.points.shape)

    @property
    def segments(self) -> int:
        """Number of cubics."""
        return self.points.shape[0] // 3


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Paint:
    """One colour and how much it covers. Both differentiable."""

    color: Tensor
    """sRGB `3` in [0, 1]."""
    opacity: Tensor
    """Scalar in [0, 1]."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Stroke:
    """A painted outline, centred on the path."""

    paint: Paint
    width: Tensor
    """Scalar, user units of the scene. Differentiable."""
    cap: Cap = "butt"
    join: Join = "miter"
    miter_limit: float = 4.0


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Path:
    """One element of the picture: its fill is drawn first, its stroke above."""

    id: str
    """Unique in the scene; the file's own where it has one."""
    subpaths: tuple[Subpath, ...]
    fill: Paint | None = None
    stroke: Stroke | None = None
    rule: Rule = "nonzero"
    groups: tuple[str, ...] = ()
    """Ids of the groups around it, outermost first."""
    locked: bool = False
    """Drawn through `use`: several elements share one definition, so the writer cannot change this one alone."""


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Scene:
    """Paths in drawing order and the part of the plane that is shown."""

    view_box: tuple[float, float, float, float]
    """Left, top, width, height in user units; width and height above 0."""
    size: tuple[float, float]
    """Width and height the file asks for, CSS pixels."""
    paths: tuple[Path, ...]

    def to_pixels(self, height: int, width: int) -> tuple[float, float, float]:
        """Scale, x shift and y shift from user units to a canvas: centred, nothing cut (`xMidYMid meet`)."""
        left, top, box_width, box_height = self.view_box
        scale = min(width / box_width, height / box_height)
        return scale, (width - scale * box_width) / 2 - scale * left, (height - scale * box_height) / 2 - scale * top


def paint(red: float, green: float, blue: float, opacity: float = 1.0, *, dtype: torch.dtype = torch.float64) -> Paint:
    """A paint from numbers in [0, 1]."""
    return Paint(color=torch.tensor([red, green, blue], dtype=dtype), opacity=torch.tensor(opacity, dtype=dtype))
