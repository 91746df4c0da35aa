"""`pcs-ext video learn-motion`, `make` in its short form, and `edit`, through the command line itself."""

import json
from pathlib import Path

import pytest
import torch

from pcs_ext.video.clips import read_clip, write_clip
from tests.support.command_line import run

FAST = ("--steps", "2", "--device", "cpu", "--precision", "fp32")


def test_a_motion_without_a_word_and_a_subject_in_front(
    base: Path, module: Path, clip: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip.with_suffix(".txt").unlink()
    move, rex, out = tmp_path / "move", tmp_path / "rex", tmp_path / "clips"
    learn = ("video", "learn-motion", clip, "--base", base, "--motion-module", module, "--frames", "3", *FAST)
    code, _, err = run(*learn, "-o", move, capture=capsys)
    assert code == 0, err
    assert json.loads((move / "config.json").read_text())["concept"]["prompts"] == [""]
    recipe = ("--recipe", "textual-inversion", "--steps", "2")
    code, _, err = run("learn", photos, "--noun", "dog", "-o", rex, "--base", base, *recipe, capture=capsys)
    assert code == 0, err
    # As it is typed: the prompt behind the motion.
    make = ("video", "make", rex, "--motion", move, "a photo of {subject} in the snow", "-o", out, *FAST)
    code, printed, err = run(*make, capture=capsys)
    assert (code, printed.split()) == (0, [str(out / "00000.mp4")]), err
    record = json.loads((out / "00000.mp4.json").read_text())["made_by"]
    assert record["text"] == "a photo of a <subject> in the snow"
    code, _, err = run("video", "make", "dog " * 200, "--motion", tmp_path / "no", capture=capsys)
    assert (code, "`pcs-ext video learn` wrote" in err) == (3, True), err
    code, _, err = run(*make, "--subject", rex, capture=capsys)
    assert (code, "are two subjects" in err) == (2, True), err


def test_presets_are_foretold_by_a_trial_that_leaves_nothing(
    base: Path, module: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    learn = ("video", "learn-motion", clip, "--base", base, "--motion-module", module, "--frames", "3", "--device",
             "cpu", "-o", tmp_path / "move")  # fmt: skip
    code, out, err = run(*learn, "--recipe", "customize-a-video", "--expect", capture=capsys)
    assert code == 0, err
    rows = [line.split() for line in out.splitlines()]
    assert [(row[0], row[1]) for row in rows] == [("quick", "120"), ("balanced", "300"), ("best", "750")]
    assert all(float(row[5]) > 0 for row in rows)
    assert sorted(tmp_path.rglob("*")) == before
    code, out, err = run(*learn, "--expect", "--steps", "7", capture=capsys)
    assert (code, [line.split()[:2] for line in out.splitlines()]) == (0, [["--steps", "7"]]), err
    code, _, err = run(*learn, "--preset", "best", "--steps", "7", capture=capsys)
    assert (code, "--preset best and --steps 7 both say how many steps" in err) == (2, True), err
    again = ("--recipe", "save", "--noun", "dog", "--prompts", "a {protagonist} {motion}", "--checkpoint-activations")
    code, _, err = run("video", "learn-motion", clip, "--base", base, "-o", tmp_path / "m", *again, capture=capsys)
    assert (code, "leave out --checkpoint-activations" in err) == (2, True), err
    code, out, err = run(*learn, "--preset", "quick", "--dry-run", capture=capsys)
    assert (code, json.loads(out)["recipe"]["phases"][0]["fit"]["steps"]) == (0, 60), err
    code, out, err = run("video", "learn-motion", clip, "--dry-run", capture=capsys)
    assert (code, json.loads(out)["recipe"]["id"]) == (0, "tune-a-video"), "on toybox"
    code, _, err = run(*learn, "--recipe", "magic-me", capture=capsys)
    assert (code, "learns a subject from photos" in err) == (2, True), err


def test_a_clip_is_edited_and_learned_once(
    base: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, before = tmp_path / "out", clip.read_bytes()
    edit = ("video", "edit", clip, "--base", base, "--frames", "3", "-o", out, *FAST)
    code, printed, err = run(*edit, "a blue cat", capture=capsys)
    assert (code, printed.split()) == (0, [str(out / "00000.mp4")]), err
    learned = tmp_path / "out.edit" / "motion"
    data, stamp = json.loads((learned / "config.json").read_text()), (learned / "config.json").stat().st_mtime_ns
    assert (data["recipe"]["id"], data["concept"]["prompts"]) == ("tune-a-video", ["a red dog"])
    code, printed, err = run(*edit, "a blue cat", "a green dog", capture=capsys)
    assert (code, printed.split()) == (0, [str(out / "00000.mp4"), str(out / "00001.mp4")]), err
    assert (learned / "config.json").stat().st_mtime_ns == stamp
    assert json.loads((out / "00000.mp4.json").read_text())["made_by"]["clip"]["inverted_share"] == 1.0
    assert not torch.equal(read_clip(out / "00000.mp4").frames, read_clip(out / "00001.mp4").frames)
    code, _, err = run(*edit, "a blue cat", "--says", "a red square", capture=capsys)
    assert code == 0, err
    assert (learned / "config.json").stat().st_mtime_ns > stamp
    assert clip.read_bytes() == before
    code, _, err = run("video", "edit", tmp_path / "no.mp4", "a cat", "-o", out, "--base", base, capture=capsys)
    assert (code, "does not exist" in err) == (3, True), err
    code, _, err = run("video", "edit", clip, "-o", out, "--base", base, capture=capsys)
    assert (code, "at least one prompt" in err) == (2, True), err


def test_a_changed_clip_moves_as_fast_as_its_source(
    base: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fast = write_clip(read_clip(clip).frames, tmp_path / "fast.mp4", fps=24)
    edit = ("video", "edit", fast, "a blue cat", "--base", base, "--frames", "3", *FAST)
    code, _, err = run(*edit, "-o", tmp_path / "out.mp4", capture=capsys)
    assert code == 0, err
    assert round(read_clip(tmp_path / "out.mp4").fps, 3) == 12, "every second frame is learned"
    code, _, err = run(*edit, "-o", tmp_path / "out.mp4", "--fps", "30", "--overwrite", capture=capsys)
    assert code == 0, err
    assert round(read_clip(tmp_path / "out.mp4").fps, 3) == 30


NOT_LEARNED_FOR: list[tuple[tuple[str, ...], int, str]] = [
    (("a cat", "-o", "{out}.avi"), 2, "ends in .avi"),
    (("a cat", "a dog", "-o", "{out}.mp4"), 2, "is one clip, 2 were asked for"),
    (("a cat", "-o", "{out}.mp4", "--fps", "0"), 2, "--fps must be above 0"),
    (("a cat", "-o", "{clip}"), 3, "is there already"),
    (("a {subject}", "-o", "{out}"), 2, "no --subject was given"),
    (("a {motion}", "-o", "{out}"), 2, "learns no word"),
    (("a cat", "-o", "{out}", "--subject", "{out}"), 3, "`pcs-ext learn` wrote"),
    (("a cat", "-o", "{out}", "--mask", "{out}.mp4"), 3, "does not exist"),
]


@pytest.mark.parametrize(("arguments", "expected", "message"), NOT_LEARNED_FOR)
def test_nothing_is_learned_for_clips_that_cannot_be_made(
    arguments: tuple[str, ...],
    expected: int,
    message: str,
    base: Path,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"{out}": str(tmp_path / "out"), "{clip}": str(clip)}
    filled = []
    for argument in arguments:
        for word, path in places.items():
            argument = argument.replace(word, path)
        filled.append(argument)
    before = sorted(tmp_path.rglob("*"))
    code, _, err = run("video", "edit", clip, *filled, "--base", base, "--frames", "3", *FAST, capture=capsys)
    assert (code, message in err) == (expected, True), err
    assert sorted(tmp_path.rglob("*")) == before
