"""The clip that a motion learns, keeps, inverts and masks is one and the same, however long its source is."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from pcs_ext.config_io import file_sha256
from pcs_ext.image.inversion import invert
from pcs_ext.reporter import SilentReporter
from pcs_ext.video import make as making
from pcs_ext.video.backbones.inflated import InflatedBackbone
from pcs_ext.video.backbones.load import load_video_backbone
from pcs_ext.video.clips import write_clip
from pcs_ext.video.edit import EditRequest
from pcs_ext.video.learn import learn_motion
from pcs_ext.video.make import make_clips
from pcs_ext.video.make_artifacts import Artifacts
from pcs_ext.video.make_request import MakeRequest
from pcs_ext.video.motion import Motion
from pcs_ext.video.recipes import MOTIONS
from pcs_ext.video.training_clips import ClipFile, read_training_clips

FRAMES, STRIDE, WHOLE = 3, 2, 12
RECIPE = dataclasses.replace(MOTIONS["tune-a-video"].build("sd"), frames=FRAMES, stride=STRIDE).with_steps(3)
FAST: dict[str, Any] = {"overwrite": False, "reporter": SilentReporter()}


@pytest.fixture
def video(base: Path) -> InflatedBackbone:
    backbone = load_video_backbone(base, inflation=RECIPE.inflation, device="cpu", precision="fp32")
    assert isinstance(backbone, InflatedBackbone)
    return backbone


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A white square that moves two columns to the right in every one of twelve frames; no frame twice."""
    frames = torch.zeros(WHOLE, 3, 32, 32, dtype=torch.uint8)
    for index in range(WHOLE):
        frames[index, :, 8:24, 2 * index : 2 * index + 8] = 255
    return write_clip(frames, tmp_path / "source.mp4", fps=8)


def read(path: Path) -> Tensor:
    (clip,) = read_training_clips([ClipFile(path, "a dog")], size=(32, 32), multiple_of=4, reporter=SilentReporter())
    return clip


def learned(video: InflatedBackbone, clip: Tensor, output: Path) -> Motion:
    return learn_motion([clip], ["a dog"], output, backbone=video, recipe=RECIPE)


def test_it_learns_from_the_window_that_it_keeps(video: InflatedBackbone, source: Path, tmp_path: Path) -> None:
    clip = read(source)
    long = learned(video, clip, tmp_path / "long")
    short = learned(video, clip[:, : (FRAMES - 1) * STRIDE + 1], tmp_path / "short")
    assert long.data.training["losses"] == short.data.training["losses"]
    for name in ("clip", *RECIPE.plays):
        for key, tensor in long.data.tensors_of(name).items():
            assert torch.equal(tensor, short.data.tensors_of(name)[key]), key


def test_the_reference_and_its_mask_are_that_window(
    video: InflatedBackbone, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    motion, inverted, masks = learned(video, read(source), tmp_path / "motion"), list[Tensor](), list[Tensor]()
    cells = making.clip_mask

    def seen(backbone: Any, latents: Tensor, *arguments: Any, **options: Any) -> list[Tensor]:
        inverted.append(latents)
        return invert(backbone, latents, *arguments, **options)

    def looked(frames: Tensor, factor: int, count: int) -> Tensor:
        masks.append(frames)
        return cells(frames, factor, count)

    monkeypatch.setattr(making, "invert", seen)
    monkeypatch.setattr(making, "clip_mask", looked)
    request = MakeRequest(prompts=("a cat",), motion=tmp_path / "motion", steps=2, size=(32, 32))
    given = dataclasses.replace(request, reference=source, mask=source)
    kept = dataclasses.replace(request, mask=source)
    for number, asked in enumerate((request, given, kept)):
        make_clips(asked, tmp_path / f"{number}.gif", backbone=video, **FAST)
    assert motion.clip is not None
    for latents in inverted:
        torch.testing.assert_close(latents, motion.clip)
    for frames in masks:
        columns = [int((frame[0].float().mean(0) > 64).nonzero().min()) for frame in frames]
        assert columns == [0, 4, 8], "two frames apart, from the beginning"
    assert (len(inverted), len(masks)) == (3, 2)


def test_what_changed_under_its_name_is_made_again(video: InflatedBackbone, source: Path, tmp_path: Path) -> None:
    learned(video, read(source), tmp_path / "motion")
    picture, out = source.with_name("picture.png"), tmp_path / "out"
    Image.new("RGB", (32, 32), "white").save(picture)
    named: dict[str, Any] = {"reference": source, "mask": picture}
    request = MakeRequest(prompts=("a cat",), motion=tmp_path / "motion", steps=1, size=(32, 32), **named)
    names = [make_clips(request, out, backbone=video, **FAST)[0].name for _ in range(2)]
    Image.new("RGB", (32, 32), "white").resize((40, 40)).save(picture)
    names += [make_clips(request, out, backbone=video, **FAST)[0].name for _ in range(2)]
    assert names == ["00000.mp4", "00000.mp4", "00001.mp4", "00001.mp4"]
    shown, artifacts = dataclasses.replace(request, picture=picture), Artifacts.load(request)
    before = artifacts.facts(shown, video)
    assert before["reference_digest"] == file_sha256(source)
    assert before["picture_digest"] == before["mask_digest"] == file_sha256(picture)
    other = InflatedBackbone(video.image, name=video.name, seed=1)
    assert artifacts.facts(shown, other) != before
    assert {**artifacts.facts(shown, other), "base_fingerprint": video.fingerprint} == before


def test_an_edit_starts_from_what_it_learned(tmp_path: Path) -> None:
    request = EditRequest(clip=tmp_path / "clip.mp4", prompts=("a cat",), mask=tmp_path / "mask.mp4")
    asked = request.making(tmp_path / "motion")
    asked.check()
    assert asked.reference is None
