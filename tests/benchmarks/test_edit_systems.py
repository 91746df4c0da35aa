"""The table of edits that train nothing, and what their trials ask."""

import functools
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.arms import Claim, Figures, claim_row, is_kept, kept_arm
from benchmarks.cast_trials import _pair, _places, _scene
from benchmarks.edit_systems import main, trial_rows
from benchmarks.edit_trials import _recoloured
from pcs_ext.systems import beats_baseline
from pcs_ext.toybox.world.subjects import SUBJECTS


class _Fake:
    """Two pictures per seed; the edit gains 0.2 by `gain`, and loses by `side`."""

    claim = Claim("sag", ("worse", "better"), ("gain",), beside=("bound",))
    config = None

    def make(self, arm: str, index: int, seed: int) -> tuple[Tensor, Figures]:
        gain = {"sag": 0.7, "better": 0.5, "worse": 0.1, "bound": 0.9}[arm]
        return torch.zeros(3, 8, 8), {"gain": gain + 0.3 * index, "side": -gain}


def test_the_better_baseline_counts_and_pictures_are_compared_one_by_one(tmp_path: Path) -> None:
    trial = _Fake()
    arms = {
        name: kept_arm(tmp_path / name, 2, range(3), functools.partial(trial.make, name))
        for name in ("sag", "worse", "better", "bound")
    }
    rows = trial_rows(trial, arms, 2)
    (row,) = [row for row in rows if row.get("system")]
    assert (row["system"], row["metric"], row["baseline"], row["n"]) == ("sag", "gain", "better", 6)
    assert row["value"] - row["baseline_value"] == pytest.approx(0.2)
    # Pictures differ by 0.3, their differences by nothing.
    assert row["spread"] == pytest.approx(0.0, abs=1e-9)
    assert beats_baseline({**row, "baseline_spread": 0.0})
    side = next(row for row in rows if row["method"] == "sag" and row["metric"] == "side")
    assert "system" not in side
    assert side["baseline"] == "worse"
    assert [row["method"] for row in rows if row["metric"] == "gain"][1:] == [
        "worse of sag", "better of sag", "bound of sag",
    ]  # fmt: skip


def test_kept_runs_are_not_made_again(tmp_path: Path) -> None:
    made: list[tuple[int, int]] = []

    def make(index: int, seed: int) -> tuple[Tensor, Figures]:
        made.append((index, seed))
        return torch.zeros(3, 4, 4), {"value": float(index)}

    first = kept_arm(tmp_path, 2, [0], make)
    assert is_kept(tmp_path, 2, [0])
    assert not is_kept(tmp_path, 2, [0, 1])
    assert kept_arm(tmp_path, 2, [0, 1], make)[:2] == first
    assert made == [(0, 0), (1, 0), (0, 1), (1, 1)]
    assert all(path.is_file() for _, path in first)


def test_lower_can_be_better() -> None:
    row = claim_row(Claim("one", ("two",), ("error",)), "error", False, {"one": [0.1, 0.2], "two": [0.3, 0.4]}, 2)
    assert beats_baseline(row)


def test_every_learned_subject_meets_two_others_in_its_own_place() -> None:
    pairs = [_pair(index) for index in range(12)]
    assert all(one != other for one, other in pairs)
    assert len({frozenset(pair) for pair in pairs}) == 12
    scene = _scene(0, pairs[0])
    assert [toy.class_name for toy in scene.objects] == [SUBJECTS[name].class_name for name in pairs[0]]
    left, right = _places(pairs[0], scene)
    assert (left.phrase, right.phrase) == pairs[0]
    assert left.right <= right.right


def test_matched_colours_have_the_other_pictures_mean() -> None:
    photo, manner = torch.rand(2, 1, 3, 8, 8, generator=torch.Generator().manual_seed(0)).mul(0.5).unbind()
    made = _recoloured(photo, manner)
    assert torch.allclose(made.mean((2, 3)), manner.mean((2, 3)), atol=1e-4)
    assert torch.allclose(made.std((2, 3)), manner.std((2, 3)), atol=1e-4)


def test_an_unknown_edit_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(edits=("photoshop",), work=tmp_path)
    assert stopped.value.code == 2
    assert "no trial of photoshop" in capsys.readouterr().err
