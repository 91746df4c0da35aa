"""Sets of views and the stage that teaches the multi-view adapter, at a tiny size."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pcs_ext.errors import InputError, ModelError
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.reporter import SilentReporter
from pcs_ext.threed.multiview import MultiViewAdapter, camera_numbers
from pcs_ext.toybox.train.__main__ import run
from pcs_ext.toybox.train.export import export_multiview
from pcs_ext.toybox.train.multiview import train_multiview
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.train.views import VIEWS, cameras_of, load_views, sets_of
from pcs_ext.toybox.world.camera import camera_to_world, position

TINY = Settings(resolution=32, vae_factor=4, scenes=48)


@pytest.fixture
def rendered(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("PCS_EXT_CACHE", str(tmp_path))
    run("views", TINY, 0, None, SilentReporter())
    return TINY.folder


def test_a_set_is_one_toy_in_one_light_from_four_sides() -> None:
    for views in sets_of("views", 0, 6):
        assert len({str((v.objects, v.light, v.context, v.style, v.background_seed)) for v in views}) == 1
        azimuths = torch.tensor([view.camera.azimuth for view in views])
        torch.testing.assert_close((azimuths.diff() - 90 + 180) % 360 - 180, torch.zeros(3), atol=1e-3, rtol=0)
        heights = {(v.camera.elevation, v.camera.distance, v.camera.target) for v in views}
        assert len(heights) == 1
        assert 2 <= views[0].camera.elevation <= 30
    assert str(sets_of("views", 2, 1)) == str(sets_of("views", 0, 3)[2:])
    assert str(sets_of("views", 0, 2)) != str(sets_of("held-out views", 0, 2))


def test_cameras_are_the_worlds_own() -> None:
    cameras = [view.camera for view in sets_of("views", 0, 1)[0]]
    numbers = camera_numbers(cameras_of(cameras)).unflatten(1, (4, 4))
    for found, camera in zip(numbers, cameras, strict=True):
        expected = camera_to_world(camera).float()
        torch.testing.assert_close(found[:, :3], expected[:, :3], atol=1e-5, rtol=0)
        beside = torch.tensor(position(camera)) - torch.tensor(camera.target)
        torch.testing.assert_close(found[:3, 3], beside / beside.norm(), atol=1e-5, rtol=0)


def test_sets_on_disk_say_what_they_show_and_not_from_where(rendered: Path) -> None:
    data = load_views(TINY)
    assert data.images.shape == (6, VIEWS, 3, 32, 32)
    assert data.coverage.shape == (6, VIEWS, 8, 8)
    assert data.coverage.flatten(1).amax(1).min() > 200, "the toy is in every set"
    assert not [text for said in data.captions for text in said if " view" in text]
    chosen = torch.tensor([4, 1])
    expected = [view.camera.azimuth for index in chosen.tolist() for view in sets_of("views", index, 1)[0]]
    assert data.cameras_of(chosen).azimuth.tolist() == pytest.approx(expected, abs=1e-3)
    written = (rendered / "views" / "00000.json").stat().st_mtime_ns
    run("views", TINY, 0, None, SilentReporter())
    assert (rendered / "views" / "00000.json").stat().st_mtime_ns == written


def test_sets_must_be_rendered_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PCS_EXT_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="toybox.train views` first"):
        load_views(TINY)


def test_the_stage_goes_on_where_it_stopped_and_exports(rendered: Path, tiny_sd_path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run the stage multiview first"):
        export_multiview(TINY, SilentReporter(), tmp_path / "weights")
    base = {key: value.clone() for key, value in _unet(tiny_sd_path).items()}
    train_multiview(TINY, 3, 1e-9, SilentReporter(), base=tiny_sd_path)  # out of time after one step
    assert [path.name for path in (rendered / "multiview").glob("step-*")] == ["step-00000001"]
    train_multiview(TINY, 3, None, SilentReporter(), base=tiny_sd_path)
    resumed = load_file(rendered / "models" / "multiview" / "adapter.safetensors")
    (rendered / "multiview").rename(rendered / "before")
    train_multiview(TINY, 3, None, SilentReporter(), base=tiny_sd_path)
    straight = load_file(rendered / "models" / "multiview" / "adapter.safetensors")
    assert all(torch.equal(resumed[key], straight[key]) for key in straight)
    assert all(value.abs().max() > 0 for key, value in straight.items() if key.startswith("corrections"))
    assert all(torch.equal(base[key], value) for key, value in _unet(tiny_sd_path).items())
    export_multiview(TINY, SilentReporter(), tmp_path / "weights")
    folder = tmp_path / "weights" / "multiview"
    assert {tensor.dtype for tensor in load_file(folder / "adapter.safetensors").values()} == {torch.float16}
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "python -m pcs_ext.toybox.train views" in card
    assert "python -m pcs_ext.toybox.train multiview --steps 3" in card
    backbone = load_backbone(tiny_sd_path, device="cpu", precision="fp32")
    assert isinstance(backbone, AbstractUnetBackbone)
    adapter = MultiViewAdapter.load(folder)
    adapter.check_base(backbone)
    adapter.base = "0" * 16
    with pytest.raises(ModelError, match="trained on a base with fingerprint 0000"):
        adapter.check_base(backbone)


def _unet(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(next((folder / "unet").glob("*.safetensors")))
