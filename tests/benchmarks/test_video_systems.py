"""The measurement of motions: pairs that were never seen together, judges that tell true from still, honest rows."""

import dataclasses
from pathlib import Path

import pytest
import torch

from benchmarks.video_judges import MEASURES, VideoJudges
from benchmarks.video_systems import RECIPE_IDS, all_runs, main
from benchmarks.video_table import CLAIMS, SUBJECT_ALONE, result_rows
from benchmarks.video_world import SHORT, Pair, example, example_scenes, pairs, true_scenes, unmoved_caption
from pcs_ext.results import as_result
from pcs_ext.toybox.motion_reader import MotionReader
from pcs_ext.toybox.world.render import render_rgb
from pcs_ext.toybox.world.subjects import SUBJECTS
from pcs_ext.toybox.world.vocabulary import MOTIONS
from pcs_ext.video.recipes import MOTIONS as RECIPES

JUMP = Pair(subject="rex", motion="jumping")


def test_pairs_spread_the_motions_and_ask_for_another_place() -> None:
    found = pairs(list(SUBJECTS), MOTIONS, 2)
    assert len(set(found)) == 24
    assert {pair.motion for pair in found} == set(MOTIONS)
    assert {pair.name for pair in found} >= {"rex-spin", "rex-jump"}
    for pair in found:
        (scene,) = example_scenes(pair.motion, 1)
        assert pair.context != scene.context
        assert pair.motion not in pair.prompt
        assert pair.motion not in unmoved_caption(scene)
    assert len(SHORT) == len(MOTIONS)


def test_judges_tell_a_true_clip_from_a_still_and_from_another_subject(tmp_path: Path) -> None:
    MotionReader().save(tmp_path)
    judges = VideoJudges(tmp_path, 64)
    true = judges.truth([JUMP])[0]
    assert true.keys() == MEASURES.keys()
    fidelity = true["motion-fidelity"]
    assert fidelity is not None
    assert fidelity > 0.9
    frames = render_rgb(true_scenes(JUMP), resolution=64)
    still = judges.measure(frames[:1].expand_as(frames), JUMP)
    assert still["motion-fidelity"] == 0
    assert still["consistency"] == pytest.approx(1, abs=1e-4)
    # The learned clip itself: all its looks, another toy and another place than asked for.
    copied = judges.measure(example("jumping", resolution=64).clip, JUMP)
    for name in ("leakage", "leaked-attributes"):
        assert (copied[name] or 0) > (true[name] or 0)
    for name in ("subject", "prompt"):
        assert (copied[name] or 0) < (true[name] or 0)


def test_rows_compare_what_belongs_together() -> None:
    """Made-up measures: motion-director leaks 0.2 less than its baseline, and moves where the subject alone stands."""
    recipes = ("motion-director", "temporal-lora")
    wanted = [JUMP, dataclasses.replace(JUMP, subject="pip")]
    found = {}
    for run in all_runs(recipes, wanted, 3):
        arm, who, _, seed = run
        values = dict.fromkeys(MEASURES, 0.5)
        values |= {"leakage": 0.3 if arm == "motion-director" else 0.5 + 0.01 * seed, "leaked-attributes": None}
        values |= {"motion-fidelity": 0.0 if arm == SUBJECT_ALONE else 0.8, "subject": 0.7 if who == "subject" else 0.2}
        found[run] = {**values, "learn_seconds": 60.0, "learn_mb": 900.0, "make_seconds": 5.0, "make_mb": 800.0}
    rows = result_rows(found, recipes, [dict.fromkeys(MEASURES, 1.0)])
    as_result(rows, command="python -m benchmarks.video_systems", seeds=range(3))
    claims = [row for row in rows if "system" in row]
    assert [(row["system"], row["metric"], row["baseline"]) for row in claims] == [
        ("motiondirector", "leakage", "temporal-lora")
    ]
    assert claims[0]["value"] == pytest.approx(0.3)
    assert claims[0]["baseline_value"] == pytest.approx(0.51)
    assert (claims[0]["n"], claims[0]["peak_mb"]) == (6, 900.0)
    assert 0 < claims[0]["spread"] < 0.01
    both = {row["metric"]: row for row in rows if row["method"] == "motion-director + subject"}
    assert both["motion-fidelity"]["value"] == pytest.approx(0.8)
    assert both["motion-fidelity"]["baseline_value"] == 0
    assert (both["subject"]["baseline"], both["subject"]["baseline_value"]) == ("motion-alone", pytest.approx(0.2))
    assert not any(row["metric"] == "leaked-attributes" for row in rows if row["method"] != "true-clips")


def test_every_claim_is_about_a_recipe_and_a_measure() -> None:
    assert {*CLAIMS, *RECIPE_IDS} <= RECIPES.keys()
    for metric, baseline in CLAIMS.values():
        assert metric in MEASURES
        assert baseline in (*RECIPES, SUBJECT_ALONE)
    assert {CLAIMS[recipe][1] for recipe in RECIPE_IDS if recipe in CLAIMS} <= {*RECIPE_IDS, SUBJECT_ALONE}


@pytest.mark.parametrize(
    ("wrong", "message"), [({"recipes": ("magic",)}, "no recipe magic"), ({"motions": ("fly",)}, "no motion fly")]
)
def test_what_is_not_known_is_named(
    wrong: dict, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    with pytest.raises(SystemExit):
        main(work=tmp_path, output=tmp_path / "out.json", **wrong)
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
