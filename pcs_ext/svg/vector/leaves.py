"""A scene's numbers as parameters: taken out in pixels, trained, put back in the scene's own units."""

import dataclasses
from collections.abc import Collection

import torch
from torch import Tensor, nn

from pcs_ext.svg.vector.geometry import apply, inverse
from pcs_ext.svg.vector.scene import Paint, Path, Scene, Subpath

_THINNEST = 0.1
"""Strokes do not get thinner, pixels."""
_DOT = 1e-4
"""Subpaths no larger than that are dots, pixels."""


def in_pixels(scene: Scene, height: int, width: int) -> Scene:
    """The scene on a canvas of `height` by `width` pixels, one unit a pixel, in float32 without gradients."""
    scale, right, down = scene.to_pixels(height, width)
    paths = tuple(_mapped(path, (scale, 0.0, 0.0, scale, right, down), torch.float32) for path in scene.paths)
    return Scene(view_box=(0, 0, width, height), size=(width, height), paths=paths)


def in_units(pixels: Scene, like: Scene, untouched: Collection[str] = ()) -> Scene:
    """Back in the units, view box and size of `like`, in float64; paths of `untouched` are those of `like`."""
    width, height = pixels.view_box[2:]
    scale, right, down = like.to_pixels(int(height), int(width))
    back = inverse((scale, 0.0, 0.0, scale, right, down))
    assert back is not None, like.view_box
    old = {path.id: path for path in like.paths}
    paths = tuple(old[path.id] if path.id in untouched else _mapped(path, back, torch.float64) for path in pixels.paths)
    return dataclasses.replace(like, paths=paths)


class Leaves:
    """Points, colours, opacities and stroke widths of the paths that may change, as parameters.

    Args:
        scene: in pixels, float32.
        frozen: ids of paths that do not change.
    """

    def __init__(self, scene: Scene, frozen: Collection[str] = ()) -> None:
        self.scene = scene
        self.free = [path for path in scene.paths if path.id not in frozen]
        self.points = {p.id: [nn.Parameter(s.points.clone()) for s in p.subpaths] for p in self.free}
        self.paints = {p.id: [nn.Parameter(found.color.clone()) for found in _paints(p)] for p in self.free}
        self.opacities = {p.id: [nn.Parameter(found.opacity.clone()) for found in _paints(p)] for p in self.free}
        self.widths = {p.id: nn.Parameter(p.stroke.width.clone()) for p in self.free if p.stroke is not None}
        # Shift (pixels), and growth and turn as the pixels they move a point at the path's radius.
        self.shifts = nn.Parameter(torch.zeros(len(self.free), 2))
        self.spins = nn.Parameter(torch.zeros(len(self.free), 2))
        self.centres = {p.id: torch.cat([s.points for s in p.subpaths]).mean(0) for p in self.free}
        self.radii = {p.id: self._radius(p) for p in self.free}

    def _radius(self, path: Path) -> float:
        points = torch.cat([s.points for s in path.subpaths]) - self.centres[path.id]
        return max(float(points.square().sum(1).mean().sqrt()), 1.0)

    def of_points(self) -> tuple[nn.Parameter, ...]:
        """Control points `n 2` of every subpath; but those of dots, which have no shape to change."""
        pairs = ((new, old) for path in self.free for new, old in zip(self.points[path.id], path.subpaths, strict=True))
        return tuple(new for new, old in pairs if float((old.points - old.points[0]).abs().amax()) > _DOT)

    def of_colors(self) -> tuple[nn.Parameter, ...]:
        """Colours `3` of every fill and stroke."""
        return tuple(color for path in self.free for color in self.paints[path.id])

    def of_opacities(self) -> tuple[nn.Parameter, ...]:
        """Opacities of every fill and stroke."""
        return tuple(opacity for path in self.free for opacity in self.opacities[path.id])

    def current(self) -> Scene:
        """The scene with the parameters in it; gradients flow to them."""
        index = {path.id: number for number, path in enumerate(self.free)}
        paths = tuple(self._path(p, index[p.id]) if p.id in index else p for p in self.scene.paths)
        return dataclasses.replace(self.scene, paths=paths)

    def placed(self, points: Tensor, id: str, index: int) -> Tensor:
        """Points `n 2` after the path's shift, growth and turn about its centre."""
        growth, turn = (self.spins[index] / self.radii[id]).unbind()
        factor, centre = growth.exp(), self.centres[id]
        x, y = (points - centre).unbind(1)
        cos, sin = factor * turn.cos(), factor * turn.sin()
        return torch.stack([cos * x - sin * y, sin * x + cos * y], 1) + centre + self.shifts[index]

    def _path(self, path: Path, index: int) -> Path:
        subpaths = tuple(
            Subpath(points=self.placed(points, path.id, index), closed=old.closed)
            for points, old in zip(self.points[path.id], path.subpaths, strict=True)
        )
        paints = [
            Paint(color=color, opacity=opacity)
            for color, opacity in zip(self.paints[path.id], self.opacities[path.id], strict=True)
        ]
        fill = paints.pop(0) if path.fill is not None else None
        stroke = path.stroke
        if stroke is not None:
            stroke = dataclasses.replace(stroke, paint=paints.pop(0), width=self.widths[path.id])
        return dataclasses.replace(path, subpaths=subpaths, fill=fill, stroke=stroke)

    def clamp(self, step: int) -> None:
        """After a step of the optimiser: colours and opacities into [0, 1], strokes not thinner than visible."""
        del step
        for value in (*self.of_colors(), *self.of_opacities()):
            value.clamp_(0, 1)
        for width in self.widths.values():
            width.clamp_(min=_THINNEST)

    def detached(self) -> Scene:
        """The scene as it is now, without gradients."""
        with torch.no_grad():
            return dataclasses.replace(
                self.current(), paths=tuple(_mapped(p, None, torch.float32) for p in self.current().paths)
            )


def _paints(path: Path) -> list[Paint]:
    return [*([path.fill] if path.fill else []), *([path.stroke.paint] if path.stroke else [])]


def _mapped(path: Path, matrix, dtype: torch.dtype) -> Path:
    """A detached copy in another dtype, under a similarity (None: none)."""
    scale = 1.0 if matrix is None else matrix[0]

    def points(old: Tensor) -> Tensor:
        old = old.detach().double()
        return (old if matrix is None else apply(matrix, old)).to(dtype)

    def paint(old: Paint) -> Paint:
        return Paint(color=old.color.detach().to(dtype).clone(), opacity=old.opacity.detach().to(dtype).clone())

    stroke = path.stroke
    if stroke is not None:
        stroke = dataclasses.replace(stroke, paint=paint(stroke.paint), width=stroke.width.detach().to(dtype) * scale)
    return dataclasses.replace(
        path,
        subpaths=tuple(Subpath(points=points(s.points), closed=s.closed) for s in path.subpaths),
        fill=None if path.fill is None else paint(path.fill),
        stroke=stroke,
    )
