"""The table of recipes against what their papers improve on."""

from pathlib import Path

import pytest

from benchmarks.image_recipes import CLAIMS, _whole, main, recipe_rows
from pcs_ext.config_io import write_json
from pcs_ext.image.evaluate import Figure, Report
from pcs_ext.image.recipes import RECIPES
from pcs_ext.systems import beats_baseline

PAIRS = [("rex", 0), ("rex", 1), ("pip", 0)]


def test_claims_are_of_recipes_of_the_survey() -> None:
    for recipe, claim in CLAIMS.items():
        assert RECIPES[recipe].system
        assert claim.baseline in RECIPES
        assert claim.baseline != recipe


def test_only_the_measure_a_recipe_exists_for_names_its_system(tmp_path: Path) -> None:
    _runs(tmp_path, "neti", [0.70, 0.72, 0.76], [0.6, 0.6, 0.6])
    _runs(tmp_path, "textual-inversion", [0.60, 0.60, 0.66], [0.6, 0.5, 0.7])
    rows = {row["metric"]: row for row in recipe_rows(tmp_path, "neti", PAIRS, "base")}
    assert rows["dino-i-truth"]["system"] == "neti"
    assert "system" not in rows["clip-t"]
    assert rows["dino-i-truth"]["value"] == pytest.approx(0.72666, abs=1e-4)
    assert rows["dino-i-truth"]["baseline_value"] == pytest.approx(0.62)
    # Gains of rex are 0.10 and 0.12, of pip 0.10: two subjects, 0.11 and 0.10.
    assert rows["dino-i-truth"]["spread"] == pytest.approx(12.706 * 0.01 / 2)
    assert beats_baseline(rows["dino-i-truth"])
    assert not beats_baseline(rows["clip-t"])
    assert (rows["steps"]["value"], rows["steps"]["higher_is_better"]) == (40.0, False)
    assert (rows["clip-t"]["seconds"], rows["clip-t"]["baseline_seconds"]) == (5.0, 5.0)


def test_rows_are_of_as_many_subjects_as_are_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [(name, seed) for name in ("rex", "pip", "momo", "zippy") for seed in (0, 1)]
    done = {(name, seed, arm) for name, seed in pairs for arm in ("neti", "textual-inversion")}

    def seconds(work: Path, name: str, seed: int, recipe: str, base: str) -> float | None:
        return 1.0 if (name, seed, recipe) in done else None

    monkeypatch.setattr("benchmarks.image_recipes.recipe_seconds", seconds)
    assert _whole(tmp_path, "neti", pairs, "base") == pairs
    done.remove(("zippy", 1, "textual-inversion"))
    assert _whole(tmp_path, "neti", pairs, "base") == pairs[:6]
    done.remove(("pip", 0, "neti"))
    assert _whole(tmp_path, "neti", pairs, "base") == []
    assert _whole(tmp_path, "neti", pairs[:2], "base") == pairs[:2]


def test_an_unclaimed_recipe_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(recipes=("dreambooth",), work=tmp_path)
    assert stopped.value.code == 2
    assert "nothing is claimed of dreambooth" in capsys.readouterr().err


def _runs(work: Path, recipe: str, likeness: list[float], agreement: list[float]) -> None:
    for (name, seed), alike, agrees in zip(PAIRS, likeness, agreement, strict=True):
        figures = {"dino-i-truth": _figure(alike), "clip-t": _figure(agrees)}
        folder = work / f"{name}-{seed}"
        Report(recipe=recipe, subject=name, figures=figures, prompts=(), seeds=(seed,)).save(
            folder / "reports" / f"{recipe}.json"
        )
        write_json(folder / "subjects" / recipe / "config.json", {"training": {"steps": 40}})
        write_json(folder / "times" / f"{recipe}.json", {"seconds": 5.0, "base": "base"})


def _figure(value: float) -> Figure:
    return Figure(
        value=value,
        spread=0.0,
        interval=(value, value),
        unit="image",
        units=1,
        n=1,
        encoder="",
        prompts=1,
        higher_is_better=True,
    )
