"""`pcs-ext video`: files in, files out, through the command line itself; mistakes get one message and an exit code."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pcs_ext.video.backbones import load as loading
from pcs_ext.video.clips import read_clip, write_clip
from pcs_ext.video.subject_request import TOYBOX_CLIP
from pcs_ext.video.told_encoder import encoder_name
from tests.support.command_line import run
from tests.support.encoders import tiny_clip
from tests.support.tiny_video import tiny_text_to_video

load_backbone = loading.load_backbone
FAST = ("--steps", "2", "--device", "cpu", "--precision", "fp32")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_motion_and_a_subject_meet_in_one_clip(
    base: Path, module: Path, clip: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    move, rex, before = tmp_path / "move", tmp_path / "rex", clip.read_bytes()
    learn = ("video", "learn", clip, "-o", move, "--base", base, "--motion-module", module, "--frames", "4", *FAST)
    code, out, _ = run(*learn, "--dry-run", capture=capsys)
    plan = json.loads(out)
    assert (code, plan["recipe"]["frames"], plan["clips"][0]["prompt"]) == (0, 4, "a red dog")
    code, out, err = run(*learn, capture=capsys)
    assert (code, out.strip()) == (0, str(move)), err
    assert clip.read_bytes() == before
    recipe = ("--recipe", "textual-inversion", "--steps", "2")
    code, _, err = run("learn", photos, "--noun", "dog", "-o", rex, "--base", base, *recipe, capture=capsys)
    assert code == 0, err
    both = ("video", "make", "a photo of {subject} in the snow", "--subject", rex, "--motion", move, *FAST)
    code, out, err = run(*both, "-o", tmp_path / "rex.mp4", "--fps", "10", capture=capsys)
    assert (code, out.strip()) == (0, str(tmp_path / "rex.mp4")), err
    made = read_clip(tmp_path / "rex.mp4")
    assert (len(made), made.size, round(made.fps, 6)) == (4, (32, 32), 10)
    record = json.loads((tmp_path / "rex.mp4.json").read_text())["made_by"]
    assert (record["text"], record["base"]) == ("a photo of a <subject> in the snow", str(base))
    assert record["motion_module"] == str(module)
    with Image.open(tmp_path / "rex.preview.webp") as preview, Image.open(tmp_path / "rex.sheet.png") as sheet:
        assert (getattr(preview, "n_frames", 1), sheet.size) == (4, (4 * 100 + 4, 104))
    other = tiny_text_to_video(base, tmp_path / "t2v")
    code, _, err = run(*both, "-o", tmp_path / "new.mp4", "--base", other, capture=capsys)
    assert (code, "learned on AnimateDiffBackbone" in err) == (3, True), err
    code, _, err = run(*both, "-o", tmp_path / "rex.mp4", capture=capsys)
    assert (code, "is there already; choose another name, or pass --overwrite" in err) == (3, True), err


def test_a_folder_grows_and_nothing_in_it_is_made_twice(
    base: Path, module: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "clips"
    make = ("video", "make", "a dog", "a cat", "--base", base, "--motion-module", module, "--frames", "3", *FAST)
    code, printed, err = run(*make, "-o", out, "--seeds", "1", "2", capture=capsys)
    assert code == 0, err
    paths = [out / f"0000{number}.mp4" for number in range(4)]
    assert printed.split() == [str(path) for path in paths]
    stamps = [path.stat().st_mtime_ns for path in paths]
    # As after a kill in the middle of the second clip: its record was not written yet.
    (out / "00001.mp4.json").unlink()
    code, printed, err = run(*make, "-o", out, "--seeds", "1", "2", capture=capsys)
    assert code == 0, err
    assert printed.split() == [str(out / name) for name in ("00000.mp4", "00004.mp4", "00002.mp4", "00003.mp4")]
    assert stamps == [path.stat().st_mtime_ns for path in paths]
    assert torch.equal(read_clip(out / "00004.mp4").frames, read_clip(paths[1]).frames)
    # At another rate, or in another precision, it is another clip.
    one = (*make[:3], *make[4:], "-o", out, "--seeds", "1")
    for flags, name in ((("--fps", "24"), "00005.mp4"), (("--precision", "bf16"), "00006.mp4"), ((), "00000.mp4")):
        code, printed, err = run(*one, *flags, capture=capsys)
        assert (code, printed.split()) == (0, [str(out / name)]), err
    assert round(read_clip(out / "00005.mp4").fps) == 24


def test_an_image_base_alone_learns_a_clip_that_moves_nothing_else(
    base: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Tune-A-Video needs no video model, and starts from its clip's inverted noise."""
    move = tmp_path / "move"
    learn = ("video", "learn", clip, "-o", move, "--base", base, "--recipe", "tune-a-video", "--frames", "3", *FAST)
    code, _, err = run(*learn, capture=capsys)
    assert code == 0, err
    make = ("video", "make", "a red cat", "--motion", move, "--reference", clip, *FAST)
    code, _, err = run(*make, "-o", tmp_path / "cat.gif", capture=capsys)
    assert code == 0, err
    assert json.loads((tmp_path / "cat.gif.json").read_text())["made_by"]["clip"]["inverted_share"] == 1.0
    assert not (tmp_path / "cat.preview.webp").exists()
    # The motion kept what it starts from.
    make = ("video", "make", "a red cat", "--motion", move, *FAST)
    code, _, err = run(*make, "-o", tmp_path / "own.gif", capture=capsys)
    assert code == 0, err
    made_by = json.loads((tmp_path / "own.gif.json").read_text())["made_by"]
    assert (made_by["clip"]["inverted_share"], made_by["reference"]) == (1.0, None)
    code, _, err = run(*make, "-o", tmp_path / "long.gif", "--frames", "4", capture=capsys)
    assert (code, "kept 3 frames of 8 x 8 latents of its clip, 4 of 8 x 8 are asked for" in err) == (2, True), err


def test_a_motion_that_follows_a_picture(
    base: Path, clip: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """LAMP starts from a picture of the base, or from a given one."""
    move = tmp_path / "move"
    learn = ("video", "learn", clip, "-o", move, "--base", base, "--recipe", "lamp", "--frames", "3", *FAST)
    code, _, err = run(*learn, capture=capsys)
    assert code == 0, err
    make = ("video", "make", "a dog", "--motion", move, *FAST)
    code, _, err = run(*make, "-o", tmp_path / "own.gif", capture=capsys)
    assert code == 0, err
    code, _, err = run(*make, "-o", tmp_path / "given", "--picture", photos / "0.png", capture=capsys)
    assert code == 0, err
    own, given = read_clip(tmp_path / "own.gif"), read_clip(tmp_path / "given" / "00000.mp4")
    assert len(own) == len(given) == 3
    assert not torch.equal(own.frames[0], given.frames[0])


def test_a_motion_with_a_word_beside_clips_of_something_else(
    base: Path, module: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    move, other = tmp_path / "move", tmp_path / "other"
    other.mkdir()
    write_clip(read_clip(clip).frames.flip(0), other / "back.mp4", fps=8)
    learn = ("video", "learn", clip, "-o", move, "--base", base, "--motion-module", module, "--recipe", "newmove",
             "--frames", "3", *FAST)  # fmt: skip
    code, _, err = run(*learn, "--prior", other, "--prompts", "a dog {motion}", capture=capsys)
    assert code == 2
    assert "back.mp4 needs a prompt" in err
    (other / "back.txt").write_text("a blue dog")
    code, _, err = run(*learn, "--prior", other, capture=capsys)
    assert (code, "say where it goes" in err) == (2, True), err
    code, _, err = run(*learn, "--prompts", "a dog {motion}", capture=capsys)
    assert (code, "give some with --prior" in err) == (2, True), err
    code, _, err = run(*learn, "--prior", other, "--prompts", "a dog {motion}", capture=capsys)
    assert code == 0, err
    code, _, err = run("video", "make", "a cat {motion}", "--motion", move, "-o", tmp_path / "cat.gif", *FAST,
                       capture=capsys)  # fmt: skip
    assert code == 0, err
    assert json.loads((tmp_path / "cat.gif.json").read_text())["made_by"]["text"] == "a cat <motion>"


def test_a_motion_told_what_a_clip_looks_like(
    base: Path, module: Path, clip: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """DreamVideo's motion networks learn and make with an image encoder's word on a frame."""
    move, clips = tmp_path / "move", []
    learn = ("video", "learn", clip, "-o", move, "--base", base, "--motion-module", module, "--frames", "3",
             "--recipe", "dreamvideo-motion", *FAST)  # fmt: skip
    code, _, err = run(*learn, capture=capsys)
    assert (code, "give --image-encoder" in err) == (2, True), err
    code, _, err = run(*learn, "--image-encoder", tiny_clip(tmp_path / "clip"), capture=capsys)
    assert code == 0, err
    for name, picture in (("a", "0.png"), ("b", "1.png")):
        code, _, err = run("video", "make", "a cat", "--motion", move, "-o", tmp_path / name, "--picture",
                           photos / picture, *FAST, capture=capsys)  # fmt: skip
        assert code == 0, err
        clips.append(json.loads((tmp_path / name / "00000.mp4.json").read_text())["made_by"]["picture"])
    assert clips == [str(photos / "0.png"), str(photos / "1.png")]
    # From another directory, and once the encoder was moved.
    (tmp_path / "clip").rename(tmp_path / "moved")
    make = ("video", "make", "a cat", "--motion", move, "-o", tmp_path / "c.gif", "--picture", photos / "0.png", *FAST)
    code, _, err = run(*make, capture=capsys)
    assert (code, "say with --image-encoder where it lies" in err) == (3, True), err
    code, _, err = run(*make, "--image-encoder", tmp_path / "moved", capture=capsys)
    assert code == 0, err
    weights = tmp_path / "moved" / "model.safetensors"
    save_file({name: tensor + 0.1 if tensor.is_floating_point() else tensor
               for name, tensor in load_file(weights).items()}, weights)  # fmt: skip
    code, _, err = run(*make, "--overwrite", "--image-encoder", tmp_path / "moved", capture=capsys)
    assert (code, "was learned with the image encoder" in err) == (3, True), err


def test_an_image_encoder_is_named_so_that_it_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clip").mkdir()
    monkeypatch.chdir(tmp_path)
    assert encoder_name(Path("clip")) == str((tmp_path / "clip").resolve())
    assert encoder_name(TOYBOX_CLIP) == "toybox/clip"


@pytest.mark.parametrize("recipe", ["magic-me", "dreamvideo", "animate-a-story"])
def test_a_subject_for_clips_is_a_subject_of_the_core(
    recipe: str, base: Path, module: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rex, before = tmp_path / "rex", {path.name: path.read_bytes() for path in photos.iterdir()}
    learn = ("video", "learn", photos, "-o", rex, "--base", base, "--recipe", recipe, *FAST)
    code, _, err = run(*learn, capture=capsys)
    assert (code, "--noun is empty" in err) == (2, True), err
    code, _, err = run(*learn, "--noun", "dog", capture=capsys)
    assert code == 0, err
    assert {path.name: path.read_bytes() for path in photos.iterdir()} == before
    code, _, err = run("image", rex, "a {subject}", "-o", tmp_path / "images", "--seeds", "1", *FAST, capture=capsys)
    assert code == 0, err
    make = ("video", "make", "a {subject}", "--subject", rex, "--motion-module", module, "--frames", "2", *FAST)
    code, _, err = run(*make, "-o", tmp_path / "rex.gif", capture=capsys)
    assert code == 0, err
    noise = json.loads((tmp_path / "rex.gif.json").read_text())["made_by"]["clip"]["noise"]
    assert noise == ("correlated" if recipe == "magic-me" else "model")


def test_a_text_to_video_folder_takes_subjects_of_image_bases(
    tiny_sd_path: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, rex = tiny_text_to_video(tiny_sd_path, tmp_path / "t2v"), tmp_path / "rex"
    recipe = ("--recipe", "textual-inversion", "--steps", "2")
    code, _, err = run("learn", photos, "--noun", "dog", "-o", rex, "--base", tiny_sd_path, *recipe, capture=capsys)
    assert code == 0, err
    make = ("video", "make", "a {subject}", "--subject", rex, "--base", folder, "--frames", "2", *FAST)
    code, _, err = run(*make, "-o", tmp_path / "rex.webm", capture=capsys)
    assert code == 0, err
    assert "note: the subject was learned on" in err


def test_toybox_takes_its_motion_adapter_as_soon_as_one_is_there(
    base: Path, module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make = ("video", "make", "a dog", "-o", tmp_path / "dog.gif", "--base", "toybox", "--frames", "2", *FAST)
    monkeypatch.setattr(loading, "_TOYBOX_MOTION", tmp_path / "nothing")
    code, _, err = run(*make, capture=capsys)
    assert code == 2
    assert "toybox's motion adapter is missing" in err
    assert "--recipe tune-a-video" in err
    monkeypatch.setattr(loading, "_TOYBOX_MOTION", module)
    monkeypatch.setattr(loading, "load_backbone", lambda _, **options: load_backbone(base, **options))
    code, _, err = run(*make, capture=capsys)
    assert code == 0, err


BAD_CALLS: list[tuple[tuple[str, ...], int, str]] = [
    (("learn", "{clip}"), 2, "output"),
    (("learn", "-o", "{new}"), 2, "no clips were given"),
    (("learn", "{clip}", "-o", "{new}", "--recipe", "magic"), 2, "expected one of motion-director"),
    (("learn", "{clip}", "-o", "{new}", "--prompts", "a", "b"), 2, "got 2 prompts for 1 clips"),
    (("learn", "{clip}", "-o", "{new}", "--noun", "dog"), 2, "learns a motion"),
    (("learn", "{clip}", "-o", "{new}", "--steps", "-1"), 2, "at least 1"),
    (("learn", "{clip}", "-o", "{new}", "--frames", "1"), 2, "--frames must be at least 2"),
    (("learn", "{clip}", "-o", "{new}", "--size", "64*40"), 2, "expected pixels of a square (512), or width x height"),
    (("learn", "{clip}", "-o", "{new}", "--recipe", "save"), 2, "say with --noun what it is"),
    (("learn", "{photos}", "-o", "{new}", "--recipe", "customvideo", "--noun", "a, b"), 2, "got 1 folders and 2 nouns"),
    (("learn", "{photos}", "-o", "{new}", "--recipe", "magic-me", "--noun", "a", "--size", "64"), 2, "from photos"),
    (("make", "a dog", "-o", "{new}.mp4", "--mask", "{clip}"), 2, "give that clip with --reference"),
    (("make", "a dog", "-o", "{new}.mp4", "--keep", "protagonist"), 2, "needs a --mask"),
    (("make", "a dog", "-o", "{new}.mp4", "--size", "0x64"), 2, "is no size"),
    (("learn", "{missing}", "-o", "{new}"), 3, "does not exist"),
    (("learn", "{photos}", "-o", "{new}"), 2, "needs a prompt that says what it shows"),
    (("learn", "{clip}", "-o", "{photos}"), 3, "exists already"),
    (("learn", "{clip}", "-o", "{new}", "--base", "{base}"), 2, "name a motion adapter too"),
    (("learn", "{clip}", "-o", "{new}", "--base", "{base}", "--motion-module", "{clip}"), 3, "cannot be read"),
    (("make", "-o", "{new}"), 2, "at least one prompt"),
    (("make", "a {subject}", "-o", "{new}"), 2, "no --subject was given"),
    (("make", "a dog", "-o", "{new}.avi"), 2, "ends in .avi"),
    (("make", "a dog", "-o", "{new}.mp4", "--seeds", "1", "2"), 2, "is one clip, 2 were asked for"),
    (("make", "a dog", "-o", "{new}.mp4", "--fps", "0"), 2, "--fps must be above 0"),
    (("make", "a dog", "-o", "{new}.mp4", "--reference-share", "0.5"), 2, "a share of a --reference clip"),
    (("make", "a dog", "-o", "{new}.mp4", "--motion", "{photos}"), 3, "`pcs-ext video learn` wrote"),
    (("make", "a dog", "-o", "{new}.mp4", "--subject", "{missing}"), 3, "`pcs-ext learn` wrote"),
    (("make", "a dog", "-o", "{clip}"), 3, "is there already"),
    (("frobnicate",), 2, "It has learn-motion, learn, learn-reference, make, edit, export, recipes"),
]


@pytest.mark.parametrize(("arguments", "expected", "message"), BAD_CALLS)
def test_a_mistake_gets_one_message_and_leaves_nothing(
    arguments: tuple[str, ...],
    expected: int,
    message: str,
    base: Path,
    clip: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(loading, "_TOYBOX_MOTION", tmp_path / "nothing")
    places = {"{clip}": clip, "{photos}": photos, "{base}": base, "{missing}": tmp_path / "no", "{new}": tmp_path / "n"}
    filled = []
    for argument in arguments:
        for word, path in places.items():
            argument = argument.replace(word, str(path))
        filled.append(argument)
    before = names(tmp_path)
    code, _, err = run("video", *filled, capture=capsys)
    assert code == expected, err
    assert message in err
    assert "Traceback" not in err
    assert names(tmp_path) == before


def test_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("video", "recipes", "--json", capture=capsys)
    rows = {row["id"]: row for row in json.loads(out)}
    assert (code, rows["motion-director"]["learns"], rows["tune-a-video"]["system"]) == (0, "motion", "tune-a-video")
    systems = "motioncrafter save customvideo videodreamer customttt personalvideo make-a-protagonist animate-a-story"
    assert {*systems.split()} <= {row["system"] for row in rows.values()}
