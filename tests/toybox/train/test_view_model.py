"""Toys over white and the stage that trains a view model on them, at a tiny size."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pcs_ext.errors import InputError
from pcs_ext.reporter import SilentReporter
from pcs_ext.threed.view_model import load_view_model
from pcs_ext.toybox.train.__main__ import run
from pcs_ext.toybox.train.photo_views import SIDES, load_photo_views, toys
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.train.view_model import train_view_model
from tests.support.encoders import tiny_clip

TINY = Settings(resolution=32, vae_factor=4, scenes=32)


def test_toys_stand_over_white_and_are_one_from_all_sides(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PCS_EXT_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="toybox.train photo_views` first"):
        load_photo_views(TINY)
    run("photo_views", TINY, 0, None, SilentReporter())
    data = load_photo_views(TINY)
    assert data.images.shape == (4, SIDES, 3, 32, 32)
    assert (data.images[:, :, :, 0, 0] == 255).all()
    assert data.images.flatten(2).amin(2).max() < 160, "something stands before the white"
    views = toys("photo views", 2, 1)[0]
    assert len({str((view.objects, view.light)) for view in views}) == 1
    found = data.cameras[list(range(2 * SIDES, 3 * SIDES))]
    assert found.azimuth.tolist() == pytest.approx([view.camera.azimuth for view in views], abs=1e-3)
    assert len({round(view.camera.azimuth) for view in views}) > 3


def test_the_stage_goes_on_where_it_stopped_and_writes_a_folder_that_opens(
    monkeypatch: pytest.MonkeyPatch, tiny_sd_path: Path, tmp_path: Path
) -> None:
    monkeypatch.setenv("PCS_EXT_CACHE", str(tmp_path))
    run("photo_views", TINY, 0, None, SilentReporter())
    clip, folder = tiny_clip(tmp_path / "clip"), TINY.folder
    train_view_model(TINY, 2, 1e-9, SilentReporter(), base=tiny_sd_path, clip=clip)  # out of time after one step
    assert [path.name for path in (folder / "view_model").glob("step-*")] == ["step-00000001"]
    train_view_model(TINY, 2, None, SilentReporter(), base=tiny_sd_path, clip=clip)
    resumed = _unet(folder)
    (folder / "view_model").rename(folder / "before")
    train_view_model(TINY, 2, None, SilentReporter(), base=tiny_sd_path, clip=clip)
    straight = _unet(folder)
    assert all(torch.equal(resumed[key], straight[key]) for key in straight)
    assert straight["conv_in.weight"][:, 4:].abs().max() > 0
    model = load_view_model(folder / "models" / "view_model", device="cpu", precision="fp32")
    assert model.resolution == 32


def _unet(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next((folder / "models" / "view_model" / "unet").glob("*.safetensors")))
