"""The staged optimiser: perturbed points recovered, vector-level terms at work, frozen paths, resuming."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pcs_ext.errors import CheckpointError, Interrupted, UsageError
from pcs_ext.svg.vector.losses import rigidity_loss, smoothness_loss
from pcs_ext.svg.vector.refine import Refinement, refine
from pcs_ext.svg.vector.render import layers_of, render
from pcs_ext.svg.vector.scene import Path as VectorPath
from pcs_ext.svg.vector.scene import Scene, Stroke, Subpath, paint
from tests.svg.conftest import blobs, circle

POINTS_ONLY = Refinement(side=96, color_steps=0, placement_steps=0, point_steps=100, rigidity_weight=0.0)
SHORT = Refinement(side=48, color_steps=4, placement_steps=4, point_steps=6)


def _perturbed(scene: Scene, amount: float) -> Scene:
    generator = torch.Generator().manual_seed(7)
    paths = []
    for path in scene.paths:
        old = path.subpaths[0].points
        noise = (torch.rand(old.shape, generator=generator, dtype=torch.float64) - 0.5) * 2 * amount
        paths.append(dataclasses.replace(path, subpaths=(Subpath(points=old + noise, closed=True),)))
    return dataclasses.replace(scene, paths=tuple(paths))


def _apart(count: int) -> Scene:
    """Shapes side by side, so that each one's outline is seen whole."""
    paths = []
    for index in range(count):
        points = circle(24.0 + 48 * (index % 2), 24.0 + 48 * (index // 2), 13.0 + index)
        points = points * torch.tensor([1.0, 0.97], dtype=torch.float64)
        fill = paint(0.2 * index, 0.6 - 0.15 * index, 0.3)
        paths.append(VectorPath(id=f"shape-{index}", subpaths=(Subpath(points=points, closed=True),), fill=fill))
    return Scene(view_box=(0, 0, 96, 96), size=(96, 96), paths=tuple(paths))


def _overlaps(first: Scene, second: Scene) -> list[float]:
    """Intersection over union of every path's own coverage."""
    values = []
    for a, b in zip(first.paths, second.paths, strict=True):
        masks = []
        for scene, path in ((first, a), (second, b)):
            alone = dataclasses.replace(scene, paths=(path,))
            layers = layers_of(alone, 192, 192)
            mask = torch.zeros(192, 192, dtype=torch.float64)
            top, left, height, width = layers.coverage.boxes[0]
            mask[top : top + height, left : left + width] = layers.coverage.layer(0).detach().double()
            masks.append(mask)
        values.append(float(torch.minimum(*masks).sum() / torch.maximum(*masks).sum()))
    return values


def test_perturbed_control_points_come_back_in_a_hundred_steps() -> None:
    scene = _apart(4)
    start = _perturbed(scene, 5.0)
    assert max(_overlaps(scene, start)) < 0.93
    found = refine(start, render(scene, 96, 96).float(), POINTS_ONLY)
    assert min(_overlaps(scene, found)) >= 0.98


def test_displaced_shapes_are_found_by_the_placement_stage_without_bending() -> None:
    scene = _apart(2)
    paths = [
        dataclasses.replace(p, subpaths=(Subpath(points=p.subpaths[0].points * 0.9 + 6.0, closed=True),))
        for p in scene.paths
    ]
    start = dataclasses.replace(scene, paths=tuple(paths))
    only = Refinement(side=96, color_steps=0, placement_steps=80, point_steps=0)
    found = refine(start, render(scene, 96, 96).float(), only)
    assert min(_overlaps(scene, found)) >= 0.97
    for before, after in zip(start.paths, found.paths, strict=True):
        assert float(rigidity_loss(after.subpaths[0].points, before.subpaths[0].points)) < 1e-9


def test_the_vector_level_keeps_shapes_smooth_at_little_cost_in_the_picture() -> None:
    generator = torch.Generator().manual_seed(0)
    scene = _apart(4)
    target = render(scene, 96, 96).float()
    noisy = (target + 0.25 * torch.randn(target.shape, generator=generator)).clamp(0, 1)
    weights = {"smoothness_weight": 0.0, "rigidity_weight": 0.0, "crossing_weight": 0.0, "area_weight": 0.0}
    free = refine(scene, noisy, Refinement(side=96, point_steps=80, color_steps=0, placement_steps=0, **weights))
    kept = refine(scene, noisy, Refinement(side=96, point_steps=80, color_steps=0, placement_steps=0))
    rough = [sum(float(smoothness_loss(p.subpaths[0])) for p in found.paths) for found in (free, kept)]
    errors = [float((render(found, 96, 96) - target).square().mean()) for found in (free, kept)]
    noise = [float((render(found, 96, 96) - noisy).square().mean()) for found in (free, kept)]
    assert rough[1] < 0.9 * rough[0]
    assert errors[1] < errors[0]
    assert noise[1] < 1.01 * noise[0]


def test_colours_strokes_and_frozen_paths() -> None:
    scene = _apart(3)
    stroke = Stroke(paint=paint(0.1, 0.1, 0.1), width=torch.tensor(3.0, dtype=torch.float64))
    truth = dataclasses.replace(scene, paths=(dataclasses.replace(scene.paths[0], stroke=stroke), *scene.paths[1:]))
    thin = dataclasses.replace(stroke, width=torch.tensor(1.5, dtype=torch.float64))
    gray = [dataclasses.replace(path, fill=paint(0.5, 0.5, 0.5)) for path in scene.paths]
    start = dataclasses.replace(scene, paths=(dataclasses.replace(gray[0], stroke=thin), *gray[1:]))
    settings = Refinement(side=96, color_steps=80, placement_steps=0, point_steps=60)
    found = refine(start, render(truth, 96, 96).float(), settings, frozen={"shape-2"})
    assert found.paths[2] is start.paths[2]
    for index in (0, 1):
        new, old = found.paths[index].fill, truth.paths[index].fill
        assert new is not None
        assert old is not None
        assert float((new.color - old.color).abs().max()) < 0.02
    assert found.paths[0].stroke is not None
    assert 2.2 < float(found.paths[0].stroke.width) < 3.6


def test_an_interrupted_run_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    scene = blobs(4, 96, 5)
    target = render(blobs(4, 96, 6), 48, 48).float()
    whole = refine(scene, target, SHORT)

    class Stopper:
        def event(self, name: str, message: str = "", **fields: object) -> None:
            del name, message, fields

        def progress(self, task: str, step: int, total: int, **fields: object) -> None:
            if task == "refine points" and step == 3:
                raise KeyboardInterrupt

    with pytest.raises((KeyboardInterrupt, Interrupted)):
        refine(scene, target, SHORT, folder=tmp_path, reporter=Stopper())
    resumed = refine(scene, target, SHORT, folder=tmp_path)
    for a, b in zip(whole.paths, resumed.paths, strict=True):
        assert torch.equal(a.subpaths[0].points, b.subpaths[0].points)
    with pytest.raises(CheckpointError):
        refine(scene, 1 - target, SHORT, folder=tmp_path)


def test_settings_out_of_range_are_refused() -> None:
    scene = blobs(1, 96, 5)
    with pytest.raises(UsageError, match="16 to 1024"):
        refine(scene, torch.zeros(3, 48, 48), Refinement(side=4))
    assert Refinement().with_steps(30).point_steps == 20


@pytest.mark.parametrize("closed", [False, True])
def test_dots_are_optimised_like_other_paths(closed: bool) -> None:
    stroke = Stroke(paint=paint(1, 0, 0), width=torch.tensor(20.0, dtype=torch.float64), cap="round")
    dot = Subpath(points=torch.full((3 if closed else 4, 2), 48.0, dtype=torch.float64), closed=closed)
    scene = _apart(1)
    scene = dataclasses.replace(scene, paths=(*scene.paths, VectorPath(id="dot", subpaths=(dot,), stroke=stroke)))
    target = render(scene, 48, 48).float()
    found = refine(scene, target, dataclasses.replace(SHORT, point_steps=12))
    assert (render(found, 48, 48) - target).abs().mean() < 0.01
