"""Pseudo views: whose noise they have, and what of them is reconstructed."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.levels import to_pil
from pcs_ext.image.sample import SampleConfig
from pcs_ext.runtime import generator_for
from pcs_ext.threed.cameras import ring
from pcs_ext.threed.distillation import DistillationConfig, draw_noise
from pcs_ext.threed.pseudo_views import PseudoViewConfig, read_pseudo_views
from pcs_ext.threed.transforms_json import write_transforms
from tests.support.gaussian import GaussianBackbone


def test_a_pseudo_view_has_the_noise_that_the_score_has_there() -> None:
    backbone, cameras = GaussianBackbone(), ring(5)
    found = PseudoViewConfig(noise="kept", harmonics=2).noise_of(cameras, backbone, SampleConfig(), 7)
    assert found is not None
    score = DistillationConfig(noise="kept", harmonics=2)
    _, expected = draw_noise(
        backbone, found.float(), score, 0.3, generator_for("test", 0), azimuth=cameras.azimuth, seed=7
    )
    assert torch.equal(found.float(), expected)
    assert PseudoViewConfig().noise_of(cameras, backbone, SampleConfig(), 7) is None


def written(folder: Path, opacity: float) -> Path:
    """One black picture of 8 pixels whose middle pixel is covered so far."""
    mask = torch.zeros(3, 8, 8)
    mask[:, 4, 4] = opacity
    to_pil(torch.full((3, 8, 8), -1.0)).save(folder / "00.png")
    to_pil(mask * 2 - 1).save(folder / "00_mask.png")
    write_transforms(folder / "transforms.json", ring(1), ["00.png"], 8, 8)
    return folder


def test_the_cut_is_over_the_grey_and_as_wide_as_asked(tmp_path: Path) -> None:
    folder = written(tmp_path, 0.6)
    _, (narrow,) = read_pseudo_views(folder, cut=True)
    assert narrow[0, 4, 4] == pytest.approx(0.4, abs=0.01)
    assert narrow[0, 4, 5] == 1
    _, (wide,) = read_pseudo_views(folder, cut=True, background=0.8, solid=0.5, margin=1)
    assert (wide[:, 3:6, 3:6] == 0).all()
    assert wide[0, 2, 4] == pytest.approx(0.8)
    assert (read_pseudo_views(folder, cut=False)[1] == 0).all()


@pytest.mark.parametrize("wrong", [{"solid": 0.0}, {"margin": -1}, {"harmonics": 1}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="got"):
        PseudoViewConfig(**wrong)
