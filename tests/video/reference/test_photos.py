"""Photos in clips, by adapters of the image core and by those for clips: what every frame sees, and the commands."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from pcs_ext.config_io import write_json
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.reference import REFERENCES
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone
from pcs_ext.video.clips import read_clip, write_clip
from pcs_ext.video.reference.directions import AskedDirections
from pcs_ext.video.reference.photos import PhotoRequest
from pcs_ext.video.stills import is_still
from tests.support.command_line import run
from tests.support.tiny_clip_reference import TINY_CLIP_SYSTEMS, clip_albums
from tests.support.tiny_reference import at_random, published, tiny_system, tiny_vision
from tests.support.tiny_video import tiny_motion_adapter, tiny_text_to_video

FAST = ("--device", "cpu", "--precision", "fp32")


@torch.no_grad()
def test_every_frame_sees_the_photo_as_a_picture_does(sd: AbstractUnetBackbone, tmp_path: Path) -> None:
    """By every system of the image core: with temporal layers passed by, a clip is pictures beside the same photo."""
    eye = tiny_vision(tmp_path / "eye")
    images = torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    prompts, timesteps = ["a photo of the dog", "red dog on beach"], torch.tensor([300, 20])
    noisy = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    for system in REFERENCES:
        adapter, encoder = tiny_system(system, sd, eye)
        if adapter.sees == "nothing":  # which no photo is shown
            continue
        at_random(adapter, sd)
        adapter.eval().requires_grad_(False)
        sight: Sight = encoder.sight(images, None, cut=False).map(lambda tensor: tensor[:, None])
        with adapter.inserted(sd):
            told = adapter.conditioned(sd, sd.encode_prompt, prompts, Shown(sight=sight, nouns=(("dog",),) * 2))
            pictures = [sd.predict(noisy[:, :, frame], timesteps, told) for frame in range(3)]
            video = AnimateDiffBackbone(sd, tiny_motion_adapter())
            with video.frame_by_frame():
                clip = video.predict(noisy, timesteps, told)
            moving, plain = (video.predict(noisy, timesteps, one) for one in (told, video.encode_prompt(prompts)))
            video.remove()
        assert (clip - torch.stack(pictures, 2)).abs().max() < 5e-5, system
        assert (moving - clip).abs().max() > 1e-3, system
        assert (moving - plain).abs().max() > 1e-3, system


def made_by(path: Path) -> dict[str, Any]:
    return json.loads(path.with_name(path.name + ".json").read_text())["made_by"]


def test_a_clip_of_what_a_photo_shows_and_of_none_at_strength_zero(
    base: Path, module: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = published(tmp_path / "adapter", load_backbone(str(base), device="cpu", precision="fp32"))
    make = ("video", "make", "a red dog", "--base", base, "--motion-module", module, "--frames", "2", "--steps", "2")
    shown = ("--reference", photos / "0.png", "--reference-adapter", adapter)
    before = (photos / "0.png").read_bytes()
    seen = {}
    for name, flags in (("with", shown), ("none", (*shown, "--reference-scale", "0")), ("plain", ())):
        code, _, err = run(*make, "-o", tmp_path / f"{name}.webp", *flags, *FAST, capture=capsys)
        assert code == 0, err
        seen[name] = read_clip(tmp_path / f"{name}.webp").frames
    assert torch.equal(seen["none"], seen["plain"])
    assert not torch.equal(seen["with"], seen["plain"])
    record = made_by(tmp_path / "with.webp")
    assert (len(record["photos"]), record["reference_scale"], record["reference"]) == (1, 1.0, None)
    assert "photos" not in made_by(tmp_path / "plain.webp")
    assert (photos / "0.png").read_bytes() == before


def test_an_adapter_learned_from_clips_shows_a_photo_in_a_new_one(
    base: Path, module: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    eye, albums, out = tiny_vision(tmp_path / "eye"), clip_albums(tmp_path / "albums", photos=True), tmp_path / "ours"
    write_json(tmp_path / "tiny.json", {"adapter": TINY_CLIP_SYSTEMS["videobooth"], "steps": 2, "batch_size": 2})
    model = ("--base", base, "--motion-module", module)
    learn = ("video", "learn-reference", albums, "-o", out, "--system", "videobooth", *model, "--encoder", eye,
             "--config", tmp_path / "tiny.json", "--frames", "3")  # fmt: skip
    code, printed, err = run(*learn, "--dry-run", capture=capsys)
    assert code == 0, err
    assert (json.loads(printed)["frames"], json.loads(printed)["adapter"]["hidden"]) == (3, 16)
    code, printed, err = run(*learn, *FAST, capture=capsys)
    assert (code, printed.strip()) == (0, str(out)), err
    make = ("video", "make", "a photo of the dog", *model, "--frames", "2", "--steps", "2", *FAST)
    shown = ("--reference", albums / "dog" / "photo.png", "--reference-adapter", out)
    code, _, err = run(*make, *shown, "-o", tmp_path / "x.mp4", capture=capsys)
    assert (code, "must know which word of the prompt" in err) == (2, True), err
    shown = (*shown, "--reference-noun", "dog")
    code, _, err = run(*make, *shown, "-o", tmp_path / "dog.webp", "--size", "40x32", capture=capsys)
    assert code == 0, err
    assert read_clip(tmp_path / "dog.webp").size == (32, 40)
    assert made_by(tmp_path / "dog.webp")["reference_nouns"] == ["dog"]
    code, printed, err = run("video", "recipes", capture=capsys)
    assert all(f"{name:20} photos" in printed for name in TINY_CLIP_SYSTEMS), err


def test_an_adapter_learned_over_maps_draws_a_clip_over_others(
    base: Path, module: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    eye, albums, out = tiny_vision(tmp_path / "eye"), clip_albums(tmp_path / "albums"), tmp_path / "ours"
    adapter = {"kind": "gen-1", "structure": "depth", "halvings": 1}
    write_json(tmp_path / "tiny.json", {"adapter": adapter, "steps": 2, "batch_size": 2, "frames": 3})
    model = ("--base", base, "--motion-module", module)
    learn = ("video", "learn-reference", albums, "-o", out, "--system", "gen-1", *model, "--encoder", eye,
             "--config", tmp_path / "tiny.json", *FAST)  # fmt: skip
    code, _, err = run(*learn, capture=capsys)
    assert (code, "has no depth beside it; expected 0_depth.mp4" in err) == (3, True), err
    for place in albums.iterdir():
        write_clip(read_clip(place / "0.mp4").frames.flip(1), place / "0_depth.mp4", fps=8)
    code, printed, err = run(*learn, capture=capsys)
    assert (code, printed.strip()) == (0, str(out)), err
    photo = Image.new("RGB", (40, 40), "red")
    photo.save(tmp_path / "photo.png")
    make = ("video", "make", "a dog", *model, "--frames", "2", "--steps", "2", *FAST,
            "--reference", tmp_path / "photo.png", "--reference-adapter", out)  # fmt: skip
    code, _, err = run(*make, "-o", tmp_path / "x.mp4", capture=capsys)
    assert (code, "pass a clip of depth maps, with --structure" in err) == (2, True), err
    told = ("--structure", clip, "--coarseness", "1", "--temporal-guidance", "1.5")
    code, _, err = run(*make, *told, "-o", tmp_path / "x.webp", capture=capsys)
    assert code == 0, err
    assert len(read_clip(tmp_path / "x.webp").frames) == 2
    record = made_by(tmp_path / "x.webp")
    assert (record["coarseness"], record["temporal_guidance"], len(record["structure"])) == (1, 1.5, 16)


MISTAKES: list[tuple[tuple[str, ...], int, str]] = [
    (("make", "a dog", "--reference-scale", "0.5"), 2, "--reference-scale belong to a photo"),
    (("make", "a dog", "--reference", "{photo}", "--reference-scale", "-1"), 2, "must be 0 or more"),
    (("make", "a dog", "--reference", "{clip}", "{clip}"), 2, "has 2 clips"),
    (("make", "a dog", "--structure", "{clip}"), 2, "--structure go with a photo and its adapter"),
    (("make", "a dog", "--reference", "{photo}", "--intensity", "21"), 2, "--intensity must be from 0"),
    (
        (
            "make",
            "a dog",
            "--reference",
            "{photo}",
            "--intensity",
            "5",
            "--base",
            "{base}",
            "--motion-module",
            "{module}",
        ),
        2,
        "not told how clips move",
    ),
    (("make", "--reference", "{photo}", "a dog"), 3, "a dog does not exist; expected photos after --reference"),
    (("make", "a dog", "--reference", "{photo}", "--base", "{t2v}"), 2, "made of an image model"),
    (
        ("make", "a dog", "--reference", "{photo}", "--base", "{base}", "--motion-module", "{module}"),
        3,
        "needs a refer",
    ),
    (("learn-reference", "{photos}", "--system", "id-animator"), 3, "has no subfolders"),
    (("learn-reference", "{missing}", "--system", "id-animator"), 3, "is no folder"),
    (("learn-reference", "{albums}", "--system", "elite"), 2, "expected one of id-animator, videobooth"),
    (("learn-reference", "{albums}", "--base", "{base}"), 2, "--encoder is needed for"),
    (("learn-reference", "{albums}", "--system", "videobooth"), 3, "does not name the cat of noun.txt"),
    (
        (
            "learn-reference",
            "{albums}",
            "--frames",
            "9",
            "--base",
            "{base}",
            "--motion-module",
            "{module}",
            "--encoder",
            "{eye}",
        ),
        3,
        "has 5 frames; 9 are needed",
    ),
]


@pytest.mark.parametrize(("arguments", "expected", "message"), MISTAKES)
def test_mistakes_get_one_message_and_leave_nothing(
    arguments: tuple[str, ...],
    expected: int,
    message: str,
    base: Path,
    module: Path,
    clip: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    albums = clip_albums(tmp_path / "albums")
    (albums / "cat" / "0.txt").write_text("a toy")
    words = {"photo": photos / "0.png", "clip": clip, "photos": photos, "missing": tmp_path / "no", "base": base,
             "module": module, "albums": albums}  # fmt: skip
    if "{t2v}" in arguments:
        words["t2v"] = tiny_text_to_video(base, tmp_path / "t2v")
    if "{eye}" in arguments:
        words["eye"] = tiny_vision(tmp_path / "eye")
    filled = [str(words[word[1:-1]]) if word.startswith("{") else word for word in arguments]
    code, _, err = run("video", *filled, "-o", tmp_path / "new.mp4", *FAST, capture=capsys)
    assert (code, message in err) == (expected, True), err
    assert not (tmp_path / "new.mp4").exists()


def test_stills_and_clips_are_told_apart_by_what_they_hold(clip: Path, photos: Path, tmp_path: Path) -> None:
    moving = write_clip(
        torch.stack([torch.full((3, 16, 16), level, dtype=torch.uint8) for level in (0, 255)]),
        tmp_path / "a.webp",
        fps=8,
    )
    Image.new("RGB", (8, 8)).save(tmp_path / "b.webp")
    assert [is_still(path) for path in (clip, moving, photos)] == [False] * 3
    assert is_still(photos / "0.png")
    assert is_still(tmp_path / "b.webp")
    assert is_still(tmp_path / "missing.jpg")


def test_a_record_tells_photos_adapters_and_maps_apart_by_what_they_hold(
    sd: AbstractUnetBackbone, photos: Path, clip: Path, tmp_path: Path
) -> None:
    video = AnimateDiffBackbone(sd, tiny_motion_adapter())
    adapter = published(tmp_path / "adapter", sd)
    request = PhotoRequest(photos=(photos / "0.png",), adapter=str(adapter))

    def facts() -> dict[str, Any]:
        shown = request.show(video, ["a red dog"])
        assert shown is not None
        return shown.facts

    before = facts()
    assert facts() == before
    assert before["reference_adapter"] == adapter.name, "where it lies on somebody's disk is not told"
    with Image.open(photos / "0.png") as photo:
        Image.new("L", photo.size, 255).save(photos / "0_mask.png")
    masked = facts()
    assert masked["photos"] != before["photos"]
    save_file({name: tensor + 0.1 for name, tensor in load_file(adapter).items()}, adapter)
    assert facts()["reference_adapter_digest"] != masked["reference_adapter_digest"]
    frames = tmp_path / "maps"
    frames.mkdir()
    told = dataclasses.replace(request, directions=AskedDirections(structure=frames))
    digests = []
    for level in (0, 90):
        Image.new("L", (40, 40), level).save(frames / "0.png")
        digests.append(told._told()["structure"])
    assert digests[0] != digests[1]
