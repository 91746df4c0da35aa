"""Every common kind of clip is read right: the frames meant, at their times, upright and opaque."""

import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pcs_ext.errors import InputError, UsageError
from pcs_ext.video.clips import read_clip, write_clip
from tests.support.clips import (
    animate,
    cut_at_key_frame,
    encode,
    ffmpeg,
    moving,
    number_of,
    pictures,
    psnr,
    repeat_packets,
)


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [
        ("a.mp4", "libx264", "yuv420p"),
        ("a.mov", "libx264", "yuv444p"),
        ("a.mkv", "libx264", "gray"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("b.webm", "libvpx", "yuv420p"),
        ("b.mp4", "libx265", "yuv420p10le"),
        ("c.mp4", "mpeg4", "yuv420p"),
    ],
)
def test_containers_and_codecs(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    path = encode(tmp_path / name, codec=codec, pix_fmt=pix_fmt)
    clip = read_clip(path)
    assert clip.frames.shape == (12, 3, 32, 32)
    assert clip.fps == pytest.approx(10, rel=1e-3)
    assert clip.path == path
    if pix_fmt == "gray":
        assert (clip.frames[:, 0] == clip.frames[:, 1]).all()
        assert clip.frames[5].float().mean() > clip.frames[0].float().mean()
    else:
        assert number_of(clip.frames) == list(range(12))
        assert psnr(clip.frames, moving()) > (28 if pix_fmt.startswith("yuv420p") else 32)
    assert ("10 bits per channel reduced to 8" in clip.notes) == ("10" in pix_fmt)


@pytest.mark.parametrize("name", ["a.gif", "a.webp", "a.png"])
def test_animated_pictures(tmp_path: Path, name: str) -> None:
    options: dict[str, Any] = {"lossless": True} if name.endswith("webp") else {}
    clip = read_clip(animate(tmp_path / name, **options))
    assert clip.fps == pytest.approx(10)
    assert psnr(clip.frames, moving()) > 38
    assert number_of(clip.frames) == list(range(12))


def test_the_still_picture_of_an_animated_png_is_no_frame(tmp_path: Path) -> None:
    still = Image.new("RGB", (32, 32), "white")
    still.save(tmp_path / "a.png", save_all=True, append_images=pictures(moving()), default_image=True, duration=50)
    clip = read_clip(tmp_path / "a.png")
    assert number_of(clip.frames) == list(range(12))
    assert clip.fps == pytest.approx(20)


def test_delays_of_a_gif_count(tmp_path: Path) -> None:
    animate(tmp_path / "a.gif", moving(4), duration=[100, 300, 100, 100])
    clip = read_clip(tmp_path / "a.gif", stride=1)
    assert clip.times[-1] == pytest.approx(0.5)
    assert number_of(clip.frames) == [0, 1, 1, 3]  # every 1/6 s
    assert "variable frame rate: sampled by time" in clip.notes
    animate(tmp_path / "b.gif", moving(4), duration=10)  # browsers show this at 100 ms
    assert read_clip(tmp_path / "b.gif").fps == pytest.approx(10)


def test_folder_in_natural_order(tmp_path: Path) -> None:
    for index, image in enumerate(pictures(moving())):
        image.save(tmp_path / f"f{index}.png")
    (tmp_path / "notes.txt").write_text("no picture")
    clip = read_clip(tmp_path, fps=12)
    assert torch.equal(clip.frames, moving())
    assert clip.fps == pytest.approx(12)
    assert "8 frames per second assumed" in read_clip(tmp_path).notes[0]


def test_variable_frame_rate_is_sampled_by_time(tmp_path: Path) -> None:
    # 6 frames at 20 fps, then 6 at 5 fps: evenly in time is not evenly in number.
    path = encode(tmp_path / "a.mp4", milliseconds=lambda i: i * 50 if i < 6 else 300 + (i - 6) * 200)
    clip = read_clip(path, frames=5)
    assert clip.times == pytest.approx([0, 0.3, 0.5, 0.9, 1.3], abs=1e-3)
    assert number_of(clip.frames) == [0, 6, 7, 9, 11]
    assert "variable frame rate: sampled by time" in clip.notes


def test_a_fast_part_may_be_too_short_for_the_stride(tmp_path: Path) -> None:
    # 10 frames of 0.5 s, then 20 of 0.1 s: 20 are stored from 5 s on, in 8 steps of the mean rate (29 gaps in 6.9 s).
    def milliseconds(index: int) -> int:
        return index * 500 if index < 10 else 5000 + (index - 10) * 100

    path = encode(tmp_path / "a.mp4", moving(30), milliseconds=milliseconds)
    with pytest.raises(InputError, match=r"holds 9 frames from 5 s on; expected at least 15 \(frames=15, stride=1\)"):
        read_clip(path, start=5, frames=15, stride=1)
    assert len(read_clip(path, start=5, frames=8, stride=1)) == 8
    assert len(read_clip(path, start=5, frames=15)) == 15


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"frames": 4}, [0, 3, 7, 11]),
        ({"frames": 1}, [0]),
        ({"stride": 3}, [0, 3, 6, 9]),
        ({"frames": 3, "stride": 2}, [0, 2, 4]),
        ({"frames": 3, "stride": 2, "start": 0.5}, [5, 7, 9]),
        ({"seconds": 0.4}, [0, 1, 2, 3]),
        ({"seconds": 0.5, "start": 0.6, "frames": 3}, [6, 8, 10]),
        ({"stride": 2, "seconds": 0.6, "start": 0.25}, [2, 4, 6, 8]),
        ({"start": 0.9}, [9, 10, 11]),
    ],
)
@pytest.mark.parametrize("name", ["a.mp4", "a.webm"])
def test_sampling(tmp_path: Path, arguments: dict[str, Any], expected: list[int], name: str) -> None:
    encode(tmp_path / name, codec="libx264" if name == "a.mp4" else "libvpx-vp9")
    clip = read_clip(tmp_path / name, **arguments)
    assert number_of(clip.frames) == expected
    if "stride" in arguments:
        assert clip.fps == pytest.approx(10 / arguments["stride"], rel=1e-3)


def test_only_key_frames_need_not_be_near(tmp_path: Path) -> None:
    clip = read_clip(encode(tmp_path / "a.mp4", moving(24), gop=100), frames=6, start=0.7, seconds=1.1)
    assert number_of(clip.frames) == [7, 9, 11, 13, 15, 17]


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
def test_a_recording_joined_in_the_middle_begins_with_its_first_picture(tmp_path: Path, codec: str) -> None:
    tuning = {f"{codec[3:]}-params": "open-gop=1:bframes=2:b-adapt=0:scenecut=0"}
    whole = encode(tmp_path / "whole.mkv", moving(24), codec=codec, gop=8, tuning=tuning)
    clip = read_clip(cut_at_key_frame(whole, tmp_path / "cut.mkv"))
    assert number_of(clip.frames) == list(range(8, 24))  # frame 7 is stored behind the key frame 8 and leans on 5
    assert clip.times[:2] == pytest.approx([0, 0.1])
    assert "left out: the first frame needs an earlier part of the recording" in clip.notes
    assert number_of(read_clip(tmp_path / "cut.mkv", frames=3, start=0.5).frames) == [13, 18, 23]
    assert number_of(read_clip(whole).frames) == list(range(24))


@pytest.mark.parametrize("turn", [90, 180, 270, "hflip", "vflip"])
def test_rotation_and_mirroring_are_followed(tmp_path: Path, turn: int | str) -> None:
    encode(tmp_path / "a.mp4", moving(4, 32, 48))
    flag = [f"-display_{turn}"] if isinstance(turn, str) else ["-display_rotation", str(turn)]
    ffmpeg(*flag, "-i", tmp_path / "a.mp4", "-c", "copy", tmp_path / "turned.mp4")
    ffmpeg("-i", tmp_path / "turned.mp4", "-frames:v", "1", "-update", "1", tmp_path / "truth.png")
    truth = torch.from_numpy(np.array(Image.open(tmp_path / "truth.png").convert("RGB"))).permute(2, 0, 1)
    clip = read_clip(tmp_path / "turned.mp4")
    assert clip.frames[0].shape == truth.shape
    assert psnr(clip.frames[0], truth) > 40
    assert "turned upright as its metadata says" in clip.notes


@pytest.mark.parametrize("matrix", [(0, 1, -1, 0), (0, -1, 1, 0), (-1, 0, 0, -1), (1, 0, 0, 1), (0, 1, 1, 0)])
def test_rotation_whose_zeros_are_not_exact(tmp_path: Path, matrix: tuple[int, ...]) -> None:
    data = encode(tmp_path / "a.mp4", moving(4, 32, 48)).read_bytes()
    at = data.index(b"tkhd") + 44  # a b u, c d v: 16.16 fixed point, but u and v 2.30
    clips = []
    for name, zero in (("exact.mp4", 0), ("near.mp4", 3), ("below.mp4", -3)):
        a, b, c, d = (value * 2**16 or zero for value in matrix)
        (tmp_path / name).write_bytes(data[:at] + struct.pack(">6i", a, b, 0, c, d, 0) + data[at + 24 :])
        clips.append(read_clip(tmp_path / name))
    assert clips[0].size == ((48, 32) if matrix[0] == 0 else (32, 48))
    assert torch.equal(clips[0].frames, clips[1].frames)
    assert torch.equal(clips[0].frames, clips[2].frames)


@pytest.mark.parametrize(("name", "codec", "pix_fmt"), [("a.webm", "libvpx-vp9", "yuva420p"), ("a.mov", "png", "rgba")])
def test_transparency_becomes_gray(tmp_path: Path, name: str, codec: str, pix_fmt: str) -> None:
    alpha = np.zeros((32, 32), np.uint8)
    alpha[:, :16] = 255
    clip = read_clip(encode(tmp_path / name, codec=codec, pix_fmt=pix_fmt, alpha=alpha))
    assert (clip.frames[:, :, :, 24:].float() - 128).abs().max() < 6
    assert number_of(clip.frames[:, :, :, 4:12]) == list(range(12))
    assert "transparent parts are laid over gray" in clip.notes


@pytest.mark.parametrize("codec", ["libvpx-vp9", "libvpx"])
def test_transparent_video_is_turned_too(tmp_path: Path, codec: str) -> None:
    alpha = np.full((32, 48), 255, np.uint8)
    alpha[:, 40:] = 0
    tuning = {"auto-alt-ref": "0"}  # VP8 has no hidden frames with transparency
    look: dict[str, Any] = {"codec": codec, "pix_fmt": "yuva420p", "alpha": alpha, "tuning": tuning}
    straight = encode(tmp_path / "a.webm", moving(4, 32, 48), **look)
    ffmpeg("-display_rotation", "90", "-i", straight, "-c", "copy", tmp_path / "turned.webm")
    clip = read_clip(tmp_path / "turned.webm")
    assert clip.size == (48, 32)
    assert torch.equal(clip.frames, read_clip(straight).frames.rot90(dims=(2, 3)))
    assert {"transparent parts are laid over gray", "turned upright as its metadata says"} <= set(clip.notes)


def test_transparent_animations(tmp_path: Path) -> None:
    rgba = torch.cat([moving(), torch.full((12, 1, 32, 32), 255, dtype=torch.uint8)], dim=1)
    rgba[:, 3, :, 16:] = 0
    for name in ("a.webp", "a.png"):
        clip = read_clip(animate(tmp_path / name, rgba, **({"lossless": True} if "webp" in name else {})))
        assert (clip.frames[:, :, :, 16:] == 128).all()
        assert "transparent parts are laid over gray" in clip.notes


def test_sound_is_ignored_and_said(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4")
    sound = ("-f", "lavfi", "-i", "sine=duration=1")
    ffmpeg("-i", tmp_path / "a.mp4", *sound, "-c:v", "copy", "-c:a", "aac", tmp_path / "b.mp4")
    clip = read_clip(tmp_path / "b.mp4")
    assert number_of(clip.frames) == list(range(12))
    assert "sound is ignored" in clip.notes
    ffmpeg(*sound, tmp_path / "c.mp4")
    with pytest.raises(InputError, match=r"c\.mp4 holds no video stream \(only sound\)"):
        read_clip(tmp_path / "c.mp4")


def test_a_cover_picture_is_no_second_stream(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4")
    pictures(moving(1))[0].save(tmp_path / "cover.png")
    streams = ("-i", tmp_path / "a.mp4", "-i", tmp_path / "cover.png", "-map", "0:v", "-map", "1:v", "-c", "copy")
    ffmpeg(*streams, "-disposition:v:1", "attached_pic", tmp_path / "cover.mp4")
    ffmpeg("-i", tmp_path / "a.mp4", "-i", tmp_path / "a.mp4", "-map", "0", "-map", "1", tmp_path / "two.mp4")
    note = "the first of several video streams is read"
    assert note not in read_clip(tmp_path / "cover.mp4").notes
    assert number_of(read_clip(tmp_path / "cover.mp4").frames) == list(range(12))
    assert note in read_clip(tmp_path / "two.mp4").notes


@pytest.mark.parametrize(
    ("name", "expected"), [("a.mp4", 24), ("a.webm", 24), ("a.gif", 25), ("a.webp", 8), ("a.png", 8), ("a", 24)]
)
def test_one_frame_has_the_rate_that_its_file_states(tmp_path: Path, name: str, expected: float) -> None:
    if name == "a.png":
        pictures(moving(1))[0].save(tmp_path / name)
    else:
        write_clip(moving(1), tmp_path / name, fps=24)  # a GIF counts in 10 ms, WebP keeps no delay of one frame
    assert read_clip(tmp_path / name, frames=1).fps == pytest.approx(expected)
    if expected == 24 and name != "a":
        assert read_clip(tmp_path / name, frames=1, reader="decord").fps == pytest.approx(24)


def test_pixels_that_are_not_square(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4", moving(3, 32, 32))
    ffmpeg("-i", tmp_path / "a.mp4", "-vf", "setsar=2", tmp_path / "b.mp4")
    assert read_clip(tmp_path / "b.mp4").size == (32, 64)
    assert read_clip(tmp_path / "b.mp4", size=16).size == (16, 16)


def test_sizes(tmp_path: Path) -> None:
    path = write_clip(moving(3, 47, 63), tmp_path / "a", fps=5)
    assert read_clip(path).size == (47, 63)
    assert read_clip(path, multiple_of=8).size == (40, 56)
    assert torch.equal(read_clip(path, multiple_of=8).frames, moving(3, 47, 63)[:, :, 3:43, 3:59])
    assert read_clip(path, size=16).size == (16, 16)
    assert read_clip(path, size=(20, 30), multiple_of=8).size == (16, 24)
    with pytest.raises(InputError, match="expected at least 64 on each side"):
        read_clip(path, multiple_of=64)


def test_resizing_keeps_the_centre_and_averages(tmp_path: Path) -> None:
    frames = torch.zeros(2, 3, 64, 128, dtype=torch.uint8)
    frames[:, :, ::2] = 255  # one-pixel lines: without anti-aliasing they stay black or white
    frames[:, :, :, :32] = 0  # outside the central square
    clip = read_clip(write_clip(frames, tmp_path / "a", fps=5), size=16)
    assert (clip.frames[:, :, 2:-2, 2:-2].float() - 127).abs().max() < 12
    assert clip.frames[:, :, 2:-2, 0].min() > 80


def test_decord_agrees_with_pyav(tmp_path: Path) -> None:
    for name, codec, pix_fmt in (
        ("a.mp4", "libx264", "yuv420p"),
        ("a.webm", "libvpx-vp9", "yuv420p"),
        ("b.mp4", "libx265", "yuv420p10le"),
    ):
        path = encode(tmp_path / name, codec=codec, pix_fmt=pix_fmt)
        ours = read_clip(path, frames=5, start=0.3, reader="pyav")
        theirs = read_clip(path, frames=5, start=0.3, reader="decord")
        assert ours.times == pytest.approx(theirs.times, abs=1e-4)
        assert number_of(ours.frames) == number_of(theirs.frames)
        assert psnr(ours.frames, theirs.frames) > (30 if pix_fmt.endswith("10le") else 40)  # chroma filters differ
        assert theirs.notes[0].startswith("read with decord")


@pytest.mark.parametrize("stamp", [lambda index: index // 2, lambda index: 0], ids=["twice", "all-at-once"])
def test_decord_refuses_times_that_mean_nothing(tmp_path: Path, stamp: Callable[[int], int]) -> None:
    path = repeat_packets(tmp_path / "a.mkv", 8, stamp)
    with pytest.raises(InputError, match=r"expected one time a frame\. Install PyAV \(pip install av\)"):
        read_clip(path, reader="decord")
    for name in ("edit lists", "mirroring", "pixel aspect", "several streams", "hidden frames"):
        assert name in read_clip(encode(tmp_path / "b.mp4"), reader="decord").notes[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frames": 0}, "frames is 0; expected a number above 0"),
        ({"stride": -1}, "stride is -1"),
        ({"seconds": float("nan")}, "seconds is nan"),
        ({"start": -1.0}, "start is -1.0; expected seconds from 0 on"),
        ({"frames": 2, "stride": 2, "seconds": 2.0}, "expected at most two"),
        ({"size": (0, 8)}, "height is 0"),
    ],
)
def test_arguments_that_make_no_sense(tmp_path: Path, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        read_clip(tmp_path / "never-opened.mp4", **arguments)


def test_too_short_clips_say_so(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4")
    with pytest.raises(InputError, match=r"holds 12 frames from 0 s on; expected at least 15 \(frames=8, stride=2\)"):
        read_clip(path, frames=8, stride=2)
    with pytest.raises(InputError, match=r"ends at 1\.10 s, before the start asked for \(9 s\)"):
        read_clip(path, start=9)
