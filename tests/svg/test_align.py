"""Alignment: transforms found again, deleted paths dropped, order and ids kept, plans read back and refused."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.svg.vector.align import Alignment, align
from pcs_ext.svg.vector.geometry import apply
from pcs_ext.svg.vector.placement import about, moved, procrustes, robust_procrustes
from pcs_ext.svg.vector.plan import AlignmentPlan, apply_plan
from pcs_ext.svg.vector.render import render
from pcs_ext.svg.vector.scene import Path as VectorPath
from pcs_ext.svg.vector.scene import Scene, Subpath, paint
from pcs_ext.svg.vector.visible import visible_coverage
from tests.svg.conftest import blobs, circle

SIDE = 192


def _twelve() -> Scene:
    """Twelve wobbly shapes that do not touch, four by three, on a ground, all of other colours."""
    generator = torch.Generator().manual_seed(1)
    corners = torch.tensor([[0, 0], [SIDE, 0], [SIDE, SIDE], [0, SIDE]], dtype=torch.float64)
    after = corners.roll(-1, 0)
    frame = torch.stack([corners, (2 * corners + after) / 3, (corners + 2 * after) / 3], 1).reshape(-1, 2)
    ground = VectorPath(id="ground", subpaths=(Subpath(points=frame, closed=True),), fill=paint(1, 1, 0.9))
    paths = [ground]
    for index in range(12):
        points = circle(0, 0, 14.0) * torch.tensor([1.0, 0.6], dtype=torch.float64)
        points = points + (torch.rand(points.shape, generator=generator) - 0.5) * 4
        points = points + torch.tensor([28.0 + 45 * (index % 4), 36.0 + 60 * (index // 4)], dtype=torch.float64)
        hue = 2 * math.pi * index / 12
        fill = paint(0.45 + 0.4 * math.cos(hue), 0.45 + 0.4 * math.sin(hue), 0.15 + 0.06 * index)
        paths.append(VectorPath(id=f"shape-{index}", subpaths=(Subpath(points=points, closed=True),), fill=fill))
    return Scene(view_box=(0, 0, SIDE, SIDE), size=(SIDE, SIDE), paths=tuple(paths))


def _features(scene: Scene, shown: Scene, names: list[str]) -> Tensor:
    """A picture's identity: which path is seen where, told apart without ambiguity."""
    seen = visible_coverage(shown, 96, 96)
    ids = [path.id for path in shown.paths]
    maps = [seen[ids.index(name)] if name in ids else torch.zeros(96, 96) for name in names]
    return torch.stack(maps)


def test_known_transforms_are_found_again_and_deleted_paths_dropped() -> None:
    scene = _twelve()
    names = [path.id for path in scene.paths]
    gone = {"shape-2", "shape-5", "shape-9"}
    truth, paths = {}, []
    for index, path in enumerate(scene.paths):
        if path.id in gone:
            continue
        if path.id != "ground":
            centre = path.subpaths[0].points.mean(0)
            turn = (0.9 + 0.03 * index) * complex(math.cos(0.15), math.sin(0.15))
            truth[path.id] = about(turn, centre, centre + torch.tensor([3.0 - index / 3, index / 2 - 2]))
            path = moved(path, truth[path.id])
        paths.append(path)
    shown = dataclasses.replace(scene, paths=tuple(paths))
    target = render(shown, SIDE, SIDE).float()
    features = _features(scene, scene, names), _features(scene, shown, names)
    plan = align(scene, target, Alignment(grid=64), features)
    assert [entry.id for entry in plan.paths] == names
    assert {entry.id for entry in plan.paths if entry.action == "drop"} == gone
    by_id = {path.id: path for path in scene.paths}
    for entry in plan.paths:
        if entry.id in truth:
            points = by_id[entry.id].subpaths[0].points
            away = (apply(entry.matrix, points) - apply(truth[entry.id], points)).square().sum(1).sqrt()
            assert float(away.mean()) <= 1.0, (entry.id, away)
            assert entry.confidence > 0.6
    kept = apply_plan(scene, plan)
    assert [path.id for path in kept.paths] == [name for name in names if name not in gone]


def test_colours_alone_follow_moved_shapes_and_new_colours_are_read() -> None:
    scene = _twelve()
    shift = torch.tensor([6.0, -5.0], dtype=torch.float64)
    paths = []
    for path in scene.paths:
        if path.id != "ground":
            path = moved(path, (1.0, 0.0, 0.0, 1.0, *shift.tolist()))
        if path.id == "shape-4":
            path = dataclasses.replace(path, fill=paint(0.1, 0.1, 1.0))
        paths.append(path)
    target = render(dataclasses.replace(scene, paths=tuple(paths)), SIDE, SIDE).float()
    plan = align(scene, target, Alignment(grid=64))
    for entry, old in zip(plan.paths, scene.paths, strict=True):
        if entry.id not in ("ground", "shape-4"):
            centre = old.subpaths[0].points.mean(0)
            away = apply(entry.matrix, centre[None])[0] - centre - shift
            assert float(away.norm()) < 1.0, (entry.id, away)
    before = (render(scene, SIDE, SIDE) - target).square().mean()
    after = (render(apply_plan(scene, plan), SIDE, SIDE) - target).square().mean()
    assert float(after) < 0.25 * float(before)


def test_visible_coverage_is_what_a_picture_of_flat_colours_shows() -> None:
    scene = blobs(5, 64, 2, opacity=0.7)
    seen = visible_coverage(scene, 64, 64)
    colors = torch.stack([path.fill.color for path in scene.paths if path.fill]).float()
    ground = 1 - seen.sum(0)
    picture = torch.einsum("phw,pc->chw", seen, colors) + ground
    assert float((picture - render(scene, 64, 64)).abs().max()) < 1e-5
    assert float(ground.min()) > -1e-6


def test_procrustes_finds_turn_scale_and_shift_and_forgets_outliers() -> None:
    generator = torch.Generator().manual_seed(0)
    source = torch.rand(30, 2, generator=generator, dtype=torch.float64) * 20
    truth = about(1.3 * complex(math.cos(0.4), math.sin(0.4)), source.mean(0), torch.tensor([5.0, 7.0]))
    target = apply(truth, source)
    assert procrustes(source, target, torch.ones(30)) == pytest.approx(truth, abs=1e-9)
    target[:6] += 9
    found = robust_procrustes(source, target, torch.ones(30), tolerance=0.5, rounds=20)
    assert found == pytest.approx(truth, abs=0.05)
    assert procrustes(source, target, torch.ones(30)) != pytest.approx(truth, abs=0.05)


def test_a_plan_is_read_back_and_an_edited_one_is_obeyed(tmp_path: Path) -> None:
    scene = blobs(3, 96, 4)
    plan = align(scene, render(scene, 96, 96).float(), Alignment())
    plan.save(tmp_path / "plan.json")
    assert AlignmentPlan.load(tmp_path / "plan.json") == plan
    entries = list(plan.paths)
    entries[1] = dataclasses.replace(entries[1], action="drop")
    entries[2] = dataclasses.replace(entries[2], action="freeze", matrix=(2.0, 0.0, 0.0, 2.0, 0.0, 0.0))
    changed = apply_plan(scene, dataclasses.replace(plan, paths=tuple(entries)))
    assert [path.id for path in changed.paths] == ["blob-0", "blob-2"]
    assert changed.paths[1] is scene.paths[2]


def test_plans_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    scene = blobs(3, 96, 4)
    plan = align(scene, render(scene, 96, 96).float(), Alignment())
    with pytest.raises(ConfigError, match="List every path"):
        apply_plan(scene, dataclasses.replace(plan, paths=plan.paths[1:]))
    flat = dataclasses.replace(plan.paths[0], matrix=(0.0, 0.0, 0.0, 0.0, 1.0, 1.0))
    with pytest.raises(ConfigError, match="flattens"):
        apply_plan(scene, dataclasses.replace(plan, paths=(flat, *plan.paths[1:])))
    for wrong in ({"color": (255.0, 0.0, 0.0)}, {"matrix": (1.0, 0.0, 0.0, 1.0, math.nan, 0.0)}):
        with pytest.raises(ConfigError, match=r"expected (values in|finite)"):
            apply_plan(
                scene, dataclasses.replace(plan, paths=(dataclasses.replace(plan.paths[0], **wrong), *plan.paths[1:]))
            )
    none = tuple(dataclasses.replace(entry, action="drop") for entry in plan.paths)
    with pytest.raises(ConfigError, match="keep at least one"):
        apply_plan(scene, dataclasses.replace(plan, paths=none))
    (tmp_path / "plan.json").write_text('{"width": 1, "height": 1, "paths": [{"id": "a", "action": "burn"}]}')
    with pytest.raises(ConfigError, match="action"):
        AlignmentPlan.load(tmp_path / "plan.json")
    with pytest.raises(UsageError, match="8 to 64 cells"):
        align(scene, render(scene, 96, 96).float(), Alignment(grid=4))
