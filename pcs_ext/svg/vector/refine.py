"""Dual optimisation of paths (SVGCustomization, arXiv 2309.12302): near the picture at image level, smooth and true to
their aligned shapes at vector level; in stages, from coarse to fine.

The paper names the two levels, not their terms. Ours: multi-scale squared difference and an optional feature distance;
Laplacian smoothness, rigidity to the shape at the stage's start, LIVE's crossing loss and a least area.
"""

import dataclasses
from collections.abc import Callable, Collection, Iterable
from pathlib import Path as FilePath

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config, config_hash, to_jsonable
from pcs_ext.errors import UsageError
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.types import LossTerms, ParameterGroup
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.svg.vector.leaves import Leaves, in_pixels, in_units
from pcs_ext.svg.vector.losses import (
    crossing_loss,
    cubics,
    minimum_area_loss,
    multi_scale_loss,
    rigidity_loss,
    signed_area,
    smoothness_loss,
)
from pcs_ext.svg.vector.render import render
from pcs_ext.svg.vector.scene import Path, Scene

Features = Callable[[Tensor], Tensor]
"""Images `b 3 h w` in [0, 1] -> features; differentiable."""
_COARSE = 0.25
"""Share of the last stage on the half canvas."""


@config
class Refinement:
    """How aligned paths are optimised. Lengths are pixels of the working size. Ours, but for LIVE's learning rates."""

    side: int = 160
    """Longer side of the canvas, 16 to 1024; stages before the last, and its beginning, work on half of it."""
    color_steps: int = 40
    """Of the first stage: colours alone (opacities stay the exemplar's); 0 leaves it out."""
    placement_steps: int = 60
    """Of the second: every path shifted, turned and scaled as a whole; 0 leaves it out."""
    point_steps: int = 200
    """Of the third: control points, stroke widths and colours together; 0 leaves it out."""
    point_lr: float = 1.0
    """Adam's step for points and placements, pixels (LIVE: 1)."""
    color_lr: float = 0.01
    """Adam's step for colours, of the range [0, 1] (LIVE: 0.01)."""
    width_lr: float = 0.1
    """Adam's step for stroke widths, pixels."""
    feature_weight: float = 0.02
    """Of the mean squared difference of features, where features are given."""
    smoothness_weight: float = 1e-3
    """Of Laplacian smoothness lost against the stage's start, per path."""
    rigidity_weight: float = 0.005
    """Of the change of shape that is no similarity, per path."""
    crossing_weight: float = 0.01
    """Of the crossing loss (LIVE: 0.01)."""
    area_weight: float = 0.01
    """Of areas below `least_area`."""
    least_area: float = 4.0
    """Closed shapes do not vanish below this, square pixels (or below half of their own area)."""

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            UsageError: names the value.
        """
        if not 16 <= self.side <= 1024:
            raise UsageError(f"the refinement's side is {self.side}; expected 16 to 1024 pixels.")
        for name in ("color_steps", "placement_steps", "point_steps"):
            if not 0 <= getattr(self, name) <= 10_000:
                raise UsageError(f"{name} is {getattr(self, name)}; expected 0 to 10000.")

    def with_steps(self, steps: int) -> "Refinement":
        """The same with all stages in proportion to `steps` in all."""
        names = ("color_steps", "placement_steps", "point_steps")
        share = steps / max(sum(getattr(self, name) for name in names), 1)
        return dataclasses.replace(self, **{name: round(getattr(self, name) * share) for name in names})


def refine(
    scene: Scene,
    target: Tensor,
    settings: Refinement,
    *,
    frozen: Collection[str] = (),
    features: Features | None = None,
    folder: FilePath | None = None,
    reporter: Reporter | None = None,
) -> Scene:
    """Paths optimised towards a picture. Deterministic; with a folder, an interrupted call goes on where it stopped.

    Args:
        scene: the aligned paths; ids, groups and order stay.
        target: `3 h w` in [0, 1], drawn on the scene's canvas.
        settings: how.
        frozen: ids of paths that stay exactly as they are; locked paths do anyway.
        features: of a feature distance at image level; None: pixels alone.
        folder: of checkpoints; None keeps nothing.
        reporter: told about every step.

    Raises:
        UsageError: a setting out of range.
        DivergedError: the loss stopped being finite.
        Interrupted: Ctrl-C; what was done is saved in the folder.
    """
    settings.check()
    frozen = {*frozen, *(path.id for path in scene.paths if path.locked)}
    if all(path.id in frozen for path in scene.paths):
        return scene
    canvas = _canvas(target, settings.side)
    pixels = in_pixels(scene, *canvas.shape[1:])
    stages = (
        ("colors", settings.color_steps),
        ("placement", settings.placement_steps),
        ("points", settings.point_steps),
    )
    for name, steps in stages:
        if steps:
            pixels = _stage(name, steps, pixels, canvas, settings, frozen, features, folder, reporter)
    return in_units(pixels, scene, frozen)


def _canvas(target: Tensor, side: int) -> Tensor:
    height, width = target.shape[1:]
    scale = side / max(height, width)
    size = (max(8, round(height * scale)), max(8, round(width * scale)))
    return F.interpolate(target[None].float(), size, mode="bilinear", antialias=True, align_corners=False)[0]


def _stage(
    name: str,
    steps: int,
    scene: Scene,
    canvas: Tensor,
    settings: Refinement,
    frozen: Collection[str],
    features: Features | None,
    folder: FilePath | None,
    reporter: Reporter | None,
) -> Scene:
    leaves = Leaves(scene, frozen)
    loss = StageLoss(name, steps, leaves, canvas, settings, features)
    checkpoints = None
    if folder is not None:
        parts = [to_jsonable(settings), name, sorted(frozen), _sum(canvas), _sum(*leaves.of_points())]
        checkpoints = CheckpointFolder(folder / name, config_hash=config_hash(parts))
    run = FitConfig(steps=steps, optimizer="adam", lr_schedule="cosine", max_gradient_norm=None)
    reporter = reporter or SilentReporter()
    for state in fit(loss, _groups(name, leaves, settings), run, checkpoints=checkpoints, after_step=(leaves.clamp,)):
        reporter.progress(f"refine {name}", state.step, steps, loss=state.losses["total"])
    return leaves.detached()


def _groups(name: str, leaves: Leaves, settings: Refinement) -> list[ParameterGroup]:
    paint = ParameterGroup(name="paint", parameters=leaves.of_colors(), learning_rate=settings.color_lr)
    if name == "colors":
        return [paint]
    if name == "placement":
        whole = (leaves.shifts, leaves.spins)
        return [ParameterGroup(name="placement", parameters=whole, learning_rate=settings.point_lr), paint]
    groups = [paint]
    if points := leaves.of_points():
        groups.insert(0, ParameterGroup(name="points", parameters=points, learning_rate=settings.point_lr))
    if leaves.widths:
        widths = tuple(leaves.widths.values())
        groups.append(ParameterGroup(name="widths", parameters=widths, learning_rate=settings.width_lr))
    return groups


class StageLoss:
    """Image-level and vector-level terms of one stage: a `Loss` for `fit`.

    Args:
        name: of the stage; vector-level terms belong to `points` alone, the others cannot change shapes.
        steps: of the stage.
        leaves: what trains.
        canvas: the picture `3 h w` at the working size.
        settings: weights.
        features: of the feature distance, or None.
    """

    def __init__(
        self,
        name: str,
        steps: int,
        leaves: Leaves,
        canvas: Tensor,
        settings: Refinement,
        features: Features | None,
    ) -> None:
        self.leaves, self.settings, self.features = leaves, settings, features
        self.shapes = name == "points"
        self.coarse = _COARSE * steps if self.shapes else steps
        half = [max(8, round(side / 2)) for side in canvas.shape[1:]]
        small = F.interpolate(canvas[None], half, mode="bilinear", antialias=True, align_corners=False)[0]
        self.canvases = (small, canvas)
        with torch.no_grad():
            self.wanted = None if features is None else features(canvas[None])
            self.start = {path.id: self._measure(path) for path in leaves.free}

    def _measure(self, path: Path) -> tuple[float, list[Tensor], list[float]]:
        """Roughness, points and the least area of each subpath at the stage's start."""
        areas = [0.5 * float(signed_area(cubics(s)).abs()) for s in path.subpaths]
        rough = max(float(smoothness_loss(s)) for s in path.subpaths)
        return rough, [s.points for s in path.subpaths], areas

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """All terms, weighted."""
        settings = self.settings
        target = self.canvases[0 if step < self.coarse else 1]
        scene = self.leaves.current()
        drawn = render(scene, *target.shape[1:])
        terms = {"image": multi_scale_loss(drawn, target)}
        if self.features is not None and self.wanted is not None and settings.feature_weight:
            full = drawn[None]
            if drawn.shape != self.canvases[1].shape:
                full = F.interpolate(full, self.canvases[1].shape[1:], mode="bilinear", align_corners=False)
            terms["features"] = settings.feature_weight * (self.features(full) - self.wanted).square().mean()
        if self.shapes:
            free = [path for path in scene.paths if path.id in self.start]
            terms["smoothness"] = settings.smoothness_weight * self._mean(self._roughness(path) for path in free)
            terms["rigidity"] = settings.rigidity_weight * self._mean(self._bent(path) for path in free)
            chains = torch.cat([cubics(subpath) for path in free for subpath in path.subpaths])
            terms["crossing"] = settings.crossing_weight * crossing_loss(chains)
            terms["area"] = settings.area_weight * self._mean(self._vanishing(path) for path in free)
        return LossTerms(terms)

    @staticmethod
    def _mean(values: Iterable[Tensor]) -> Tensor:
        return torch.stack(list(values)).mean()

    def _roughness(self, path: Path) -> Tensor:
        """What is lost: corners that were there may stay."""
        return torch.stack([F.relu(smoothness_loss(s) - self.start[path.id][0]) for s in path.subpaths]).mean()

    def _bent(self, path: Path) -> Tensor:
        pairs = zip(path.subpaths, self.start[path.id][1], strict=True)
        return torch.stack([rigidity_loss(s.points, old) for s, old in pairs]).mean()

    def _vanishing(self, path: Path) -> Tensor:
        closed = [
            minimum_area_loss(s, max(min(self.settings.least_area, area), 1e-3))
            for s, area in zip(path.subpaths, self.start[path.id][2], strict=True)
            if s.closed and path.fill is not None
        ]
        return torch.stack(closed).mean() if closed else path.subpaths[0].points.sum() * 0


def _sum(*tensors: Tensor) -> list[float]:
    """Numbers that tell contents apart, for a checkpoint's hash."""
    return [float(t.detach().double().sum()) for t in tensors] + [float(t.detach().double().norm()) for t in tensors]
