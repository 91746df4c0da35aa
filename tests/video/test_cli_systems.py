"""`pcs-ext video` with methods that want more than a clip and a caption: masks, words, several subjects, rewards."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from pcs_ext.video.clips import read_clip
from tests.support.command_line import run
from tests.support.encoders import tiny_clip
from tests.support.tiny_video import tiny_motion_adapter

FAST = ("--steps", "2", "--device", "cpu", "--precision", "fp32")


@pytest.fixture
def masked(tmp_path: Path) -> tuple[Path, Path]:
    """Photos of two subjects, a rectangle each, with masks beside them."""
    for name, colour in (("red", (200, 40, 40)), ("blue", (40, 40, 200))):
        (tmp_path / name).mkdir()
        for index in range(2):
            place = (10 + index, 12, 30, 34)
            photo, mask = Image.new("RGB", (48, 40), "gray"), Image.new("L", (48, 40), 0)
            photo.paste(colour, place)
            mask.paste(255, place)
            photo.save(tmp_path / name / f"{index}.png")
            mask.save(tmp_path / name / f"{index}_mask.png")
    return tmp_path / "red", tmp_path / "blue"


def made_by(path: Path) -> dict[str, Any]:
    return json.loads(path.with_name(path.name + ".json").read_text())["made_by"]


def test_clips_of_any_shape_from_learning_to_making(
    base: Path, module: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    move = tmp_path / "move"
    learn = ("video", "learn", clip, "-o", move, "--base", base, "--motion-module", module, "--frames", "3", *FAST)
    code, _, err = run(*learn, "--size", "50x40", capture=capsys)
    assert (code, "width 50 does not fit: expected a multiple of 4" in err) == (2, True), err
    code, _, err = run(*learn, "--recipe", "motioncrafter", "--size", "52x36", capture=capsys)
    assert code == 0, err
    make = ("video", "make", "a dog", "--motion", move, "--reference", clip, *FAST)
    code, _, err = run(*make, "-o", tmp_path / "a.mp4", capture=capsys)
    assert code == 0, err
    assert read_clip(tmp_path / "a.mp4").size == (36, 52)
    code, _, err = run(*make, "-o", tmp_path / "b.mp4", "--size", "32x44", capture=capsys)
    assert code == 0, err
    assert read_clip(tmp_path / "b.mp4").size == (44, 32)


def test_another_protagonist_inside_a_mask(
    base: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is kept comes out as it does when all is kept; a mask of one picture holds for all frames."""
    move, out = tmp_path / "move", tmp_path / "clips"
    learn = ("video", "learn", clip, "-o", move, "--base", base, "--frames", "3", *FAST)
    code, _, err = run(*learn, "--recipe", "make-a-protagonist", "--size", "48x32", capture=capsys)
    assert code == 0, err
    mask, black = Image.new("L", (48, 32), 0), tmp_path / "black.png"
    mask.save(black)
    mask.paste(255, (0, 0, 24, 32))
    mask.save(tmp_path / "mask.png")
    make = ("video", "make", "a blue cat", "--motion", move, "--reference", clip, *FAST)
    code, _, err = run(*make, "-o", out, "--mask", black, capture=capsys)
    assert (code, "black everywhere" in err) == (3, True), err
    seen = []
    for keep in ("background", "protagonist"):
        path = tmp_path / f"{keep}.mp4"
        code, _, err = run(*make, "-o", path, "--mask", tmp_path / "mask.png", "--keep", keep, capture=capsys)
        assert code == 0, err
        assert made_by(path)["keep"] == keep
        seen.append(read_clip(path).frames)
    assert seen[0].shape == (3, 3, 32, 48)
    assert not torch.equal(*seen)


def test_a_motion_of_two_words_takes_another_protagonist(
    base: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    move = tmp_path / "move"
    learn = ("video", "learn", clip, "-o", move, "--base", base, "--recipe", "save", "--frames", "3", *FAST)
    said = ("--prompts", "a {protagonist} {motion} on grass")
    code, _, err = run(*learn, *said, capture=capsys)
    assert (code, "say with --noun what it is" in err) == (2, True), err
    code, _, err = run(*learn, "--prompts", "a dog {motion}", "--noun", "dog", capture=capsys)
    assert (code, "learns a word for who does it" in err) == (2, True), err
    code, _, err = run(*learn, *said, "--noun", "dog", "--size", "48x32", capture=capsys)
    assert code == 0, err
    make = ("video", "make", "a cat {motion} on grass", "--motion", move, "--reference", clip, *FAST)
    code, _, err = run(*make, "-o", tmp_path / "cat.gif", capture=capsys)
    assert code == 0, err
    assert made_by(tmp_path / "cat.gif")["text"] == "a cat <motion> on grass"
    code, _, err = run(*make, "-o", tmp_path / "long.gif", "--frames", "4", capture=capsys)
    assert (code, "was learned for 3 frames" in err) == (2, True), err


def test_a_subject_and_a_motion_are_tuned_to_each_other_for_a_clip(
    base: Path, module: Path, clip: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    move, rex, config = tmp_path / "move", tmp_path / "rex", tmp_path / "short.json"
    learn = ("video", "learn", clip, "-o", move, "--base", base, "--motion-module", module, "--recipe", "customttt",
             "--frames", "3", *FAST)  # fmt: skip
    code, out, err = run(*learn, "--dry-run", capture=capsys)
    assert code == 0, err
    recipe = json.loads(out)["recipe"]
    recipe["alignment"]["steps"] = 2
    config.write_text(json.dumps(recipe))
    code, _, err = run(*learn, "--config", config, capture=capsys)
    assert code == 0, err
    chosen = json.loads((move / "config.json").read_text())["recipe"]["adapters"]["motion"]["blocks"]
    assert len(chosen) == 2
    code, _, err = run("learn", photos, "--noun", "dog", "-o", rex, "--base", base, "--recipe", "lycoris-loha",
                       "--steps", "2", capture=capsys)  # fmt: skip
    assert code == 0, err
    before = {path: path.read_bytes() for folder in (move, rex) for path in folder.rglob("*") if path.is_file()}
    make = ("video", "make", "a {subject}", "--subject", rex, "--motion", move, *FAST)
    code, _, err = run(*make, "-o", tmp_path / "rex.gif", capture=capsys)
    assert (code, "align" in err) == (0, True), err
    assert made_by(tmp_path / "rex.gif")["alignment"]["steps"] == 2
    assert {path: path.read_bytes() for path in before} == before
    code, _, err = run("video", "make", "a dog", "--motion", move, "-o", tmp_path / "dog.gif", *FAST, capture=capsys)
    assert (code, "align" in err) == (0, False), err
    code, _, err = run(*make, "-o", tmp_path / "still.gif", "--frames", "1", capture=capsys)
    assert (code, "align" in err) == (0, False), err
    assert "the motion was learned on" not in err
    tiny_motion_adapter(seed=1).save_pretrained(tmp_path / "other")
    code, _, err = run(*make, "-o", tmp_path / "other.gif", "--motion-module", tmp_path / "other", capture=capsys)
    assert (code, "note: the motion was learned on" in err) == (0, True), err


def test_an_identity_by_reward_is_there_at_the_end_alone(
    base: Path, module: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rex = tmp_path / "rex"
    learn = ("video", "learn", photos, "-o", rex, "--base", base, "--motion-module", module, "--recipe",
             "personalvideo", "--noun", "dog", "--frames", "2", *FAST)  # fmt: skip
    code, out, err = run(*learn, "--dry-run", capture=capsys)
    assert (code, json.loads(out)["identity"]["window"]) == (0, 0.25), err
    code, _, err = run(*learn, "--image-encoder", tiny_clip(tmp_path / "clip"), "--size", "40x32", capture=capsys)
    assert code == 0, err
    assert not (tmp_path / "rex.training").exists()
    make = ("video", "make", "a {subject}", "--subject", rex, "--motion-module", module, "--frames", "2", *FAST)
    code, _, err = run(*make, "-o", tmp_path / "rex.gif", capture=capsys)
    assert code == 0, err


def test_two_subjects_in_one_clip(
    base: Path, module: Path, masked: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """CustomVideo in clips of a motion adapter; the attention's side is the tiny model's."""
    both, config = tmp_path / "both", tmp_path / "small.json"
    learn = ("video", "learn", *masked, "-o", both, "--base", base, "--recipe", "customvideo", "--noun", "dog, cat",
             *FAST)  # fmt: skip
    code, out, err = run(*learn, "--dry-run", capture=capsys)
    assert code == 0, err
    recipe = json.loads(out)["recipe"]
    recipe["phases"][0]["objective"]["terms"][0]["side"] = 8
    config.write_text(json.dumps(recipe))
    code, _, err = run(*learn, "--config", config, capture=capsys)
    assert code == 0, err
    make = ("video", "make", "a photo of {subject}", "a <cat>", "--subject", both, "--motion-module", module,
            "--frames", "2", *FAST)  # fmt: skip
    code, _, err = run(*make, "-o", tmp_path / "clips", capture=capsys)
    assert code == 0, err
    assert made_by(tmp_path / "clips" / "00000.mp4")["text"] == "a photo of a <dog> and a <cat>"
    assert made_by(tmp_path / "clips" / "00001.mp4")["text"] == "a <cat>"


def test_two_subjects_in_a_clip_of_an_image_model(
    base: Path, masked: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """VideoDreamer needs neither a video model nor a motion."""
    both = tmp_path / "both"
    learn = ("video", "learn", *masked, "-o", both, "--base", base, "--recipe", "videodreamer", "--noun", "dog, cat",
             *FAST)  # fmt: skip
    code, _, err = run(*learn, "--image-encoder", tiny_clip(tmp_path / "clip"), capture=capsys)
    assert code == 0, err
    make = ("video", "make", "a photo of {subject}", "--subject", both, *FAST)
    code, _, err = run(*make, "-o", tmp_path / "both.gif", "--size", "48x32", "--frames", "3", capture=capsys)
    assert code == 0, err
    made = read_clip(tmp_path / "both.gif")
    assert (len(made), made.size) == (3, (32, 48))
    assert made_by(tmp_path / "both.gif")["clip"]["noise"] == "moving"
