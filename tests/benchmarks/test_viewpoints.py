"""How pictures are told to be from the side that was asked for."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.viewpoints import SIDES, TOLD, UNTOLD, WORDS, measured, result_rows, true_views
from pcs_ext.systems import beats_baseline


class Pixels:
    """Pictures themselves, coarsely."""

    id = "pixels"

    def encode_images(self, images: Tensor) -> Tensor:
        return F.normalize(F.adaptive_avg_pool2d(images, 8).flatten(1), dim=1)


def test_true_views_are_right_mirrored_ones_wrong_and_colours_do_not_count() -> None:
    true = true_views("momo", 32).images
    figures = measured(true, true, Pixels())  # type: ignore[arg-type]
    assert figures["own side"] == figures["within 45"] == 1
    assert figures["likeness"] == pytest.approx(1)
    darker = measured(0.6 * true - 0.3, true, Pixels())  # type: ignore[arg-type]
    assert darker["own side"] == 1
    turned = measured(true.roll(4, 0), true, Pixels())  # type: ignore[arg-type]
    assert turned["own side"] == turned["within 45"] == 0
    next_to = measured(true.roll(1, 0), true, Pixels())  # type: ignore[arg-type]
    assert (next_to["own side"], next_to["within 45"]) == (0, 1)


def test_eight_equal_pictures_are_right_once_at_most() -> None:
    true = true_views("momo", 32).images
    same = true[:1].expand(len(SIDES), -1, -1, -1) + 1e-3 * torch.randn(true.shape, generator=torch.manual_seed(0))
    assert measured(same, true, Pixels())["own side"] <= 3 / 8  # type: ignore[arg-type]


def test_only_the_side_speaks_for_the_system() -> None:
    def runs(side: float) -> list[dict[str, float]]:
        return [{"own side": side + noise, "within 45": 1.0, "likeness": 0.9} for noise in (-0.005, 0.005)]

    rows = result_rows({TOLD: runs(0.95), UNTOLD: runs(0.1), WORDS: runs(0.3)}, ["momo", "quill"], [1.0, 3.0])
    (claim,) = [row for row in rows if "system" in row]
    assert (claim["metric"], claim["baseline"], claim["seconds"]) == ("own side", "view words at best", 2.0)
    assert beats_baseline(claim)
