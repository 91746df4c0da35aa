"""Orbit cameras, laws and transforms.json."""

import json
import math
from pathlib import Path

import pytest
import torch

from pcs_ext.config_io import from_jsonable, to_jsonable
from pcs_ext.errors import ConfigError, InputError, UsageError
from pcs_ext.threed.camera_laws import CameraLaw, draw_cameras
from pcs_ext.threed.cameras import orbit, rays, ring
from pcs_ext.threed.transforms_json import read_transforms, write_transforms
from pcs_ext.toybox.world import camera as world_camera
from pcs_ext.toybox.world.scene import Camera


@pytest.mark.parametrize(("azimuth", "elevation"), [(0.0, 15.0), (70.0, -8.0), (-120.0, 55.0), (180.0, 0.0)])
def test_matrices_and_rays_equal_the_worlds(azimuth: float, elevation: float) -> None:
    true = Camera(azimuth=azimuth, elevation=elevation)
    ours = orbit([azimuth], [elevation], [true.distance], [true.fov], true.target)
    assert torch.allclose(ours.camera_to_world[0].double(), world_camera.camera_to_world(true), atol=1e-6)
    expected = world_camera.rays(world_camera.camera_table([true], torch.device("cpu")), 6, 9, False)
    assert torch.allclose(rays(ours, 6, 9).directions.T.reshape(3, 1, 6, 9), torch.stack(expected), atol=1e-6)


def test_the_middle_ray_meets_the_target() -> None:
    cameras = draw_cameras(CameraLaw(), 16, torch.Generator().manual_seed(1))
    middle = rays(cameras, 1, 1)
    offset = torch.tensor(CameraLaw().target) - middle.origins
    assert torch.allclose(offset / offset.norm(dim=1, keepdim=True), middle.directions, atol=1e-5)
    assert torch.allclose(middle.along, torch.ones(16), atol=1e-6)


def test_azimuths_fill_every_stratum() -> None:
    cameras = draw_cameras(CameraLaw(), 12, torch.Generator().manual_seed(0))
    assert sorted(((cameras.azimuth + 180) // 30).int().tolist()) == list(range(12))


def test_four_view_sets_are_orthogonal() -> None:
    cameras = draw_cameras(CameraLaw(views=4), 8, torch.Generator().manual_seed(0))
    for group in (cameras[0:4], cameras[4:8]):
        turns = torch.remainder(group.azimuth - group.azimuth[0], 360)
        assert torch.allclose(turns, torch.tensor([0.0, 90.0, 180.0, 270.0]), atol=1e-3)
        assert group.elevation.unique().numel() == 1


def test_elevation_laws_have_their_means() -> None:
    means = {}
    for law in ("angle", "sphere", "mixed"):
        cameras = draw_cameras(
            CameraLaw(elevation=(0, 90), elevation_law=law), 20_000, torch.Generator().manual_seed(0)
        )
        means[law] = cameras.elevation.mean().item()
    # Uniform in the angle: 45. Uniform on the sphere: the mean of asin(u), pi/2 - 1 radians. Mixed: between them.
    sphere = math.degrees(math.pi / 2 - 1)
    assert means == pytest.approx({"angle": 45.0, "sphere": sphere, "mixed": (45 + sphere) / 2}, abs=0.6)


def test_a_seed_repeats_its_views() -> None:
    first, again = (draw_cameras(CameraLaw(), 4, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first.camera_to_world, again.camera_to_world)


def test_transforms_json_round_trip(tmp_path: Path) -> None:
    cameras, path = ring(5), tmp_path / "transforms.json"
    write_transforms(path, cameras, [f"images/{i}.png" for i in range(5)], 48, 64)
    again, files = read_transforms(path)
    assert files[3] == "images/3.png"
    assert torch.allclose(again.camera_to_world, cameras.camera_to_world, atol=1e-6)
    assert torch.allclose(again.fov, cameras.fov, atol=1e-4)
    assert torch.allclose(torch.cos(torch.deg2rad(again.azimuth - cameras.azimuth)), torch.ones(5), atol=1e-6)
    assert torch.allclose(again.elevation, cameras.elevation, atol=1e-3)


def test_the_blender_form_is_read(tmp_path: Path) -> None:
    frame = {"file_path": "./r_0", "transform_matrix": torch.eye(4).tolist()}
    (tmp_path / "t.json").write_text(json.dumps({"camera_angle_x": math.radians(40), "frames": [frame]}))
    assert read_transforms(tmp_path / "t.json")[0].fov.item() == pytest.approx(40, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [({"k1": 0.1}, "Undistort"), ({"cx": 3.0}, "Crop"), ({"fl_y": None, "fl_x": None}, "Add the lens")],
)
def test_lenses_that_do_not_fit_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    frame = {"file_path": "a.png", "transform_matrix": torch.eye(4).tolist()}
    data = {"w": 64, "h": 64, "fl_x": 80.0, "fl_y": 80.0, "cx": 32.0, "frames": [frame], **change}
    (tmp_path / "t.json").write_text(json.dumps(data))
    with pytest.raises(InputError, match=message):
        read_transforms(tmp_path / "t.json")


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(UsageError, match="distance > 0"):
        orbit([0.0], [0.0], [0.0], [30.0])
    with pytest.raises(UsageError, match="multiple of 4"):
        draw_cameras(CameraLaw(views=4), 6, torch.Generator())
    with pytest.raises(UsageError, match="as many"):
        orbit([0.0, 1.0], [0.0], [1.0], [30.0])


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"elevation": (40.0, 10.0)}, "elevation from 40.0 to 10.0; expected the lower end first"),
        ({"elevation": (0.0, 120.0)}, "elevation from 0.0 to 120.0; expected .* from -90 to 90"),
        ({"azimuth": (90.0, -90.0)}, "azimuth"),
        ({"distance": (0.0, 2.0)}, "a distance above 0"),
        ({"fov": (30.0, 180.0)}, "between 0 and 180 degrees"),
        ({"views": 0}, "one view or more"),
    ],
)
def test_a_law_that_no_camera_can_follow_is_refused_when_it_is_read(wrong, match):
    with pytest.raises(ConfigError, match=match):
        from_jsonable(CameraLaw, {**to_jsonable(CameraLaw()), **wrong})
