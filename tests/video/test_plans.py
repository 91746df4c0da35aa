"""What `video learn --dry-run` prints is what `--config` takes, and what is learned follows it."""

import json
from pathlib import Path

import pytest

from pcs_ext.artifact import ArtifactData
from pcs_ext.video.clips import read_clip
from tests.support.command_line import run
from tests.support.encoders import tiny_clip

FAST = ("--steps", "2", "--device", "cpu", "--precision", "fp32")


def test_a_printed_plan_is_learned_at_its_size(
    base: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, move = tmp_path / "plan.json", tmp_path / "move"
    learn = ("video", "learn-motion", clip, "-o", move, "--base", base, "--recipe", "tune-a-video")
    code, printed, err = run(*learn, "--size", "48x32", "--frames", "3", *FAST, "--dry-run", capture=capsys)
    assert code == 0, err
    plan.write_text(printed)
    code, again, err = run(*learn, "--config", plan, "--dry-run", capture=capsys)
    assert (code, json.loads(again)) == (0, json.loads(printed)), err
    code, _, err = run(*learn, "--config", plan, *FAST, capture=capsys)
    assert code == 0, err
    learned = ArtifactData.load(move, kind="motion")
    assert learned.training["clips"] == [[3, 6, 32, 48]]
    assert learned.tensors["clip"]["latents"].shape[-2:] == (8, 12)
    make = ("video", "make", "a blue dog", "--motion", move, "-o", tmp_path / "dog.gif", *FAST)
    code, _, err = run(*make, capture=capsys)
    assert code == 0, err
    made = read_clip(tmp_path / "dog.gif")
    assert (len(made), made.size) == (3, (32, 48))
    code, _, err = run(*learn[:5], "--config", plan, "--recipe", "tune-a-video", "--dry-run", capture=capsys)
    assert (code, "was printed for --base" in err) == (2, True), err


def test_a_subject_of_clips_is_learned_and_made_as_planned(
    base: Path, module: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan, rex = tmp_path / "plan.json", tmp_path / "rex"
    learn = ("video", "learn", photos, "-o", rex, "--base", base, "--motion-module", module, "--recipe",
             "personalvideo", "--noun", "dog")  # fmt: skip
    code, printed, err = run(*learn, "--frames", "3", "--size", "40x32", *FAST, "--dry-run", capture=capsys)
    assert code == 0, err
    edited = json.loads(printed)
    assert (edited["identity"]["frames"], edited["identity"]["width"]) == (3, 40)
    edited["identity"]["score_frames"] = 2
    plan.write_text(json.dumps(edited))
    code, again, err = run(*learn, "--config", plan, "--dry-run", capture=capsys)
    assert (code, json.loads(again)) == (0, edited), err
    code, _, err = run(*learn, "--config", plan, "--image-encoder", tiny_clip(tmp_path / "clip"), *FAST, capture=capsys)
    assert code == 0, err
    make = ("video", "make", "a {subject}", "--subject", rex, "--motion-module", module, *FAST)
    code, _, err = run(*make, "-o", tmp_path / "rex.gif", capture=capsys)
    assert code == 0, err
    made = read_clip(tmp_path / "rex.gif")
    assert (len(made), made.size) == (3, (32, 40))


def test_a_plan_about_something_else_is_refused(
    base: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "plan.json"
    learn = ("video", "learn", photos, "-o", tmp_path / "rex", "--base", base, "--recipe", "personalvideo")
    code, printed, err = run(*learn, "--noun", "dog", "--dry-run", capture=capsys)
    assert code == 0, err
    plan.write_text(printed)
    code, _, err = run(*learn, "--noun", "cat", "--config", plan, "--dry-run", capture=capsys)
    assert (code, "is about a dog, and --noun cat about a cat" in err) == (2, True), err
    plan.write_text(printed.replace('"window": 0.25', '"window": 0.5'))
    code, _, err = run(*learn, "--noun", "dog", "--config", plan, "--dry-run", capture=capsys)
    assert (code, "has window 0.5" in err) == (2, True), err
