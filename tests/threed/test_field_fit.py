"""Fields learn toys from their true views."""

import dataclasses
import time
from pathlib import Path

import pytest
import torch

from pcs_ext.errors import UsageError
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import FitConfig
from pcs_ext.threed.cameras import ring
from pcs_ext.threed.field_fit import FieldFitConfig, fit_field, psnr
from pcs_ext.threed.fields import Blob, HashField, HashGrid, VoxelField
from pcs_ext.threed.mesh import MeshConfig, extract_mesh
from pcs_ext.threed.render import RenderConfig, render_views
from tests.support.toy_views import toy_views


def quick(steps: int) -> FieldFitConfig:
    """A small fit."""
    return FieldFitConfig(
        fit=FitConfig(steps=steps, lr_schedule="cosine", max_gradient_norm=None, eps=1e-15),
        rays_per_step=512,
        render=RenderConfig(samples=40),
        occupancy_every=20,
    )


@pytest.mark.parametrize(("kind", "steps"), [("voxel", 120), ("hash", 100)])
def test_held_out_views_come_near_in_seconds(kind: str, steps: int) -> None:
    cameras, images, _ = toy_views("rex", 24, 24, 0)
    held_out, truth, _ = toy_views("rex", 6, 24, 99)
    field = (
        VoxelField(32) if kind == "voxel" else HashField(HashGrid(levels=4, finest=32), blob=Blob(height=4, radius=0.7))
    )
    before = psnr(render_views(field, held_out, 24, 24).rgb, truth)
    for state in fit_field(field, cameras, images, quick(steps)):
        assert not state.skipped
    after = psnr(render_views(field, held_out, 24, 24).rgb, truth)
    flat = psnr(images.mean((0, 2, 3), keepdim=True).expand_as(truth), truth)
    assert after > max(before, flat) + 5


def test_a_stopped_fit_goes_on_to_the_same_field(tmp_path: Path) -> None:
    cameras, images, _ = toy_views("pip", 6, 16, 0)
    config = dataclasses.replace(quick(12), occupancy_every=4, rays_per_step=128)
    whole, broken = VoxelField(12), VoxelField(12)
    for _ in fit_field(whole, cameras, images, config):
        pass
    for state in fit_field(broken, cameras, images, config, checkpoints=CheckpointFolder(tmp_path / "run")):
        if state.step == 7:
            break
    resumed = VoxelField(12)
    for _ in fit_field(resumed, cameras, images, config, checkpoints=CheckpointFolder(tmp_path / "run")):
        pass
    for name, values in whole.state_dict().items():
        assert torch.equal(values, resumed.state_dict()[name])


def test_pictures_must_match_the_cameras() -> None:
    with pytest.raises(UsageError, match="one per camera"):
        next(fit_field(VoxelField(8), ring(3), torch.zeros(2, 3, 8, 8)))


@pytest.mark.slow
def test_a_toy_in_two_minutes_of_one_core() -> None:
    cameras, images, _ = toy_views("rex", 48, 64, 0)
    held_out, truth, world = toy_views("rex", 12, 64, 99)
    torch.set_num_threads(1)
    field, started = VoxelField(), time.process_time()
    for _ in fit_field(field, cameras, images):
        pass
    seconds = time.process_time() - started
    views = render_views(field, held_out, 64, 64)
    assert psnr(views.rgb, truth) > 28
    assert seconds < 120
    inside, solid = world.mask, views.opacity > 0.5
    assert (inside & solid).sum() / (inside | solid).sum() > 0.95
    error = (views.depth - world.depth)[inside & solid].abs().median()
    assert error < 0.1
    mesh = extract_mesh(field, MeshConfig(resolution=96))
    assert mesh.is_watertight
    assert mesh.volume > 0
