"""Animations read back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pcs_ext.errors import UsageError
from pcs_ext.threed.cameras import ring
from pcs_ext.threed.fields import Blob, VoxelField
from pcs_ext.threed.render import render_views
from pcs_ext.threed.turntable import write_turntable


@pytest.mark.parametrize("kind", ["webp", "gif"])
def test_frames_come_back_in_order(tmp_path: Path, kind: str) -> None:
    field = VoxelField(16, blob=Blob(height=30))
    with torch.no_grad():
        field.albedo_grid[0, 0, :, :, :8] = 6
        field.albedo_grid[0, 0, :, :, 8:] = -6
    frames = render_views(field, ring(5), 24, 24).rgb
    write_turntable(tmp_path / f"turn.{kind}", frames, 10)
    with Image.open(tmp_path / f"turn.{kind}") as animation:
        assert getattr(animation, "n_frames", 1) == 5
        assert animation.info["loop"] == 0
        for index in range(5):
            animation.seek(index)
            pixels = np.asarray(animation.convert("RGB")) / 255
            assert animation.info["duration"] == 100
            error = pixels - frames[index].permute(1, 2, 0).numpy()
            assert np.abs(error).mean() < 0.04


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Choose one of these"):
        write_turntable(tmp_path / "turn.avi", torch.zeros(2, 3, 8, 8))
    with pytest.raises(UsageError, match="n 3 h w"):
        write_turntable(tmp_path / "turn.gif", torch.zeros(0, 3, 8, 8))


@pytest.mark.parametrize(("kind", "rate"), [("gif", 30), ("gif", 15), ("gif", 60), ("gif", 240), ("webp", 240)])
def test_an_animation_lasts_as_long_as_its_rate_says(tmp_path: Path, kind: str, rate: float) -> None:
    frames = torch.rand(24, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    write_turntable(tmp_path / f"turn.{kind}", frames, rate)
    shown = []
    with Image.open(tmp_path / f"turn.{kind}") as animation:
        for index in range(getattr(animation, "n_frames", 1)):
            animation.seek(index)
            animation.load()
            shown.append(animation.info["duration"])
    assert sum(shown) == pytest.approx(1000 * 24 / rate, abs=10)
    assert min(shown) > 10, "players show shorter frames for a tenth of a second"


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf"), 1e-9, 1e6])
@pytest.mark.parametrize("kind", ["mp4", "gif", "webp"])
def test_rates_that_no_film_can_have_are_refused(tmp_path: Path, kind: str, rate: float) -> None:
    with pytest.raises(UsageError, match=r"expected 0\.01 to 240 frames per second"):
        write_turntable(tmp_path / f"turn.{kind}", torch.zeros(2, 3, 8, 8), rate)
    assert not list(tmp_path.iterdir())
