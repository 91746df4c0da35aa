"""New paths of a customised drawing, where the exemplar's leave most of the picture unexplained.

A picture's ground must not hide the drawing: where the exemplar leaves the page open, new paths lie beneath everything.
"""

import dataclasses
import itertools
from collections.abc import Collection, Iterator

import torch
from torch import Tensor

from pcs_ext.svg.vector.components import largest_components
from pcs_ext.svg.vector.render import render
from pcs_ext.svg.vector.scene import Paint, Path, Scene
from pcs_ext.svg.vector.vectorize import ground_path, seed_path

ADDED = "added"
_OPEN = 0.5
"""Coverage below which the page shows, and share of the border that must show it for a picture to get a ground."""
_BESIDE = 0.8
"""Share of a region that must be open page for its path to lie beneath."""
_ALIKE = 0.4
"""Intersection over union of a region and the ellipse its path starts as, for it to lie on top: an ellipse around a
ring or a sickle would hide what is right."""
_PAPER = 0.05
"""A ground so near to white, of 1, needs no path."""
_GROUND = 0.1
"""Colours nearer than that to the ground's are the ground's: paths that hide too much move away, nothing hides them."""


def with_added(scene: Scene, target: Tensor, count: int, least_area: float) -> tuple[Scene, frozenset[str]]:
    """The scene with new paths: a ground and regions of it first, then its own, then those on top.

    Args:
        scene: aligned.
        target: `3 h w` in [0, 1].
        count: at most so many paths.
        least_area: smallest region that is worth one, pixels.

    Returns:
        The scene, and the ids of new paths that are as they should be (the ground).
    """
    height, width = target.shape[1:]
    names, done = _names(scene), list[str]()
    page = render(scene, height, width, background=None)[3].detach() < _OPEN
    beneath, top, behind = list[Path](), list[Path](), torch.ones(3)
    if count and (ground := _ground(target, page)) is not None:
        beneath.append(_in_units(ground, scene, target, next(names)))
        done.append(beneath[0].id)
        behind = ground.fill.color if ground.fill else behind
    drawn = render(dataclasses.replace(scene, paths=(*beneath, *scene.paths)), height, width).detach().float()
    for region in largest_components(drawn, target, 2 * count, least_area):
        if len(beneath) + len(top) == count:
            break
        path = seed_path(region, target, 4, 0)
        color = target[:, region].median(1).values
        if page[region].float().mean() > _BESIDE:
            beneath.append(_in_units(path, scene, target, next(names)))
        elif float((color - behind).abs().max()) > _GROUND and _overlap(path, region) > _ALIKE:
            top.append(_in_units(path, scene, target, next(names)))
    return dataclasses.replace(scene, paths=(*beneath, *scene.paths, *top)), frozenset(done)


def without_idle(scene: Scene, target: Tensor, own: Collection[str]) -> Scene:
    """The scene without new paths that bring its drawing no nearer to the picture `3 h w`; `own` ids are not new."""

    def error(paths: tuple[Path, ...]) -> float:
        drawn = render(dataclasses.replace(scene, paths=paths), *target.shape[1:]).detach()
        return float((drawn - target).abs().mean())

    paths = scene.paths
    least = error(paths)
    for path in reversed([path for path in scene.paths if path.id not in own]):
        fewer = tuple(other for other in paths if other.id != path.id)
        if (found := error(fewer)) <= least:
            paths, least = fewer, found
    return dataclasses.replace(scene, paths=paths)


def _names(scene: Scene) -> Iterator[str]:
    taken = {path.id for path in scene.paths}
    for index in itertools.count(1):
        name = f"{ADDED}-{index}"
        while name in taken:
            name += "_"
        yield name


def _ground(target: Tensor, page: Tensor) -> Path | None:
    """A rectangle over the canvas in the colour that the picture has where the page shows at its border."""
    border = torch.zeros_like(page)
    border[[0, -1]] = True
    border[:, [0, -1]] = True
    shown = border & page
    if shown.sum() < _OPEN * border.sum() or 1 - float(target[:, shown].median(1).values.min()) < _PAPER:
        return None
    return ground_path(target, shown)


def _overlap(path: Path, region: Tensor) -> float:
    """Intersection over union of a path in pixels and a region `h w`."""
    height, width = region.shape
    alone = Scene(view_box=(0, 0, width, height), size=(width, height), paths=(path,))
    covered = render(alone, height, width, background=None)[3] > 0.5
    return float((covered & region).sum() / (covered | region).sum())


def _in_units(path: Path, scene: Scene, target: Tensor, name: str) -> Path:
    """A path in pixels as one of the scene."""
    scale, right, down = scene.to_pixels(*target.shape[1:])
    shape = path.subpaths[0]
    points = (shape.points.double() - torch.tensor([right, down])) / scale
    fill = path.fill and Paint(color=path.fill.color.double(), opacity=path.fill.opacity.double())
    return dataclasses.replace(
        path, id=name, subpaths=(dataclasses.replace(shape, points=points),), fill=fill, locked=False
    )
