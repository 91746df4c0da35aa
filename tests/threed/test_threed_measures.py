"""What the 3D benchmark measures, on shapes whose answer is known."""

import dataclasses

import pytest
import torch

from benchmarks.threed_measures import (
    HIGHER,
    carved_mesh,
    geometry,
    in_place,
    look,
    mesh_pictures,
    view_readings,
)
from benchmarks.threed_systems import CLAIMS, result_rows
from benchmarks.true_toys import TrueToy, true_toy
from benchmarks.truth import COMMANDS
from pcs_ext.results import as_result
from pcs_ext.systems import beats_baseline, catalogue
from pcs_ext.threed.cameras import ring
from pcs_ext.toybox.judges import toybox_judges
from pcs_ext.toybox.world.captions import view_name
from pcs_ext.toybox.world.subjects import SUBJECTS


@pytest.fixture(scope="module")
def truth() -> TrueToy:
    return true_toy(SUBJECTS["rex"], views=12)


def test_a_carved_mesh_is_the_toy(truth: TrueToy) -> None:
    mesh = carved_mesh(true_toy(SUBJECTS["rex"], side=96, views=16), resolution=56)
    assert mesh.is_watertight
    found = geometry(mesh, truth)
    assert found["silhouette-iou"] > 0.88
    assert found["chamfer"] < 0.06
    moved = mesh.copy()
    moved.apply_translation([0.3, 0.0, 0.0])
    worse = geometry(moved, truth)
    assert worse["silhouette-iou"] < found["silhouette-iou"] - 0.1
    assert 0.1 < worse["chamfer"] < 0.3
    nothing = geometry(None, truth)
    assert nothing["silhouette-iou"] == 0
    assert nothing["chamfer"] > 0.25
    white, opacity = mesh_pictures(mesh, truth.cameras, 64)
    assert ((opacity[:, 0] > 0.5) == truth.masks).float().mean() > 0.96
    assert (white[(opacity < 1e-6).expand_as(white)] > 0.999).all()


def test_the_toy_itself_is_beyond_reproach(truth: TrueToy) -> None:
    judges = toybox_judges()
    own = look(truth.images, truth.coverage, truth, judges)
    assert own["psnr"] > 100
    assert own["likeness"] == pytest.approx(1, abs=1e-4)
    assert own["saturation-error"] == 0
    assert own["views-right"] > 0.8
    turned = dataclasses.replace(truth, images=truth.images.roll(6, 0), coverage=truth.coverage.roll(6, 0))
    backwards = look(turned.images, turned.coverage, truth, judges)
    assert backwards["janus-rate"] > own["janus-rate"]
    assert backwards["views-right"] < 0.6
    assert backwards["psnr"] < 25
    assert own.keys() <= HIGHER.keys()
    scene = in_place(torch.ones(1, 3, 4, 4), torch.zeros(1, 1, 4, 4), torch.full((1, 3, 4, 4), 0.25))
    assert torch.allclose(scene, torch.full((1, 3, 4, 4), -0.5))


def test_views_are_asked_for_where_one_can_know_them() -> None:
    cameras = ring(24)
    words = ["front view"] * 24
    assert view_readings(words, cameras, "cat") == {"janus-rate": 1.0, "views-right": pytest.approx(5 / 20)}
    words = ["front view" if abs(a) < 40 else "back view" if abs(a) > 140 else "side view"
             for a in cameras.azimuth.tolist()]  # fmt: skip
    assert view_readings(words, cameras, "cat") == {"janus-rate": 0.0, "views-right": 1.0}


def test_a_teapot_has_no_second_face_where_its_back_looks_like_its_front() -> None:
    cameras = ring(24)
    shown = [view_name(azimuth, 0.0, "teapot") for azimuth in cameras.azimuth.tolist()]
    assert view_readings(shown, cameras, "teapot") == {"janus-rate": 0.0, "views-right": 1.0}
    assert view_readings(["front view"] * 24, cameras, "teapot")["janus-rate"] < 1


def test_rows_name_a_system_only_for_what_it_exists_for() -> None:
    base = {"psnr": 10.0, "likeness": 0.5, "janus-rate": 0.5, "chamfer": 0.2, "seconds": 4.0}
    better = {"psnr": 12.0, "likeness": 0.6, "janus-rate": 0.1, "chamfer": 0.1, "seconds": 6.0}
    runs = [
        {
            "DreamBooth + SDS": base,
            "dreambooth3d": {**better, "psnr": 12.0 + jitter},
            "the toy itself": {"janus-rate": 0.0},
        }
        for jitter in (-1.0, 0.0, 1.0)
    ]
    rows = {(row["method"], row["metric"]): row for row in result_rows(runs)}
    psnr = rows["dreambooth3d", "psnr"]
    assert (psnr["value"], psnr["baseline_value"], psnr["n"]) == (12.0, 10.0, 3)
    assert psnr["spread"] == pytest.approx(1.96 / 3**0.5)
    assert (psnr["seconds"], psnr["baseline_seconds"]) == (6.0, 4.0)
    assert beats_baseline(psnr)
    assert beats_baseline(rows["dreambooth3d", "janus-rate"])
    named = {row["metric"] for row in rows.values() if "system" in row}
    assert named == {"likeness", "janus-rate"}
    assert rows["the toy itself", "janus-rate"]["baseline"] is None
    as_result(list(rows.values()), command="python -m benchmarks.threed_systems", seeds=[0, 1, 2])


def test_claims_are_of_systems_that_run() -> None:
    known = {system.id: system for system in catalogue()}
    assert all(known[claim.system].recipes for claim in CLAIMS if claim.system)
    assert all(set(claim.exists_for) <= HIGHER.keys() for claim in CLAIMS)
    assert COMMANDS["threed_systems"][0] == "benchmarks.threed_systems"
