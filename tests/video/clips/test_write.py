"""What is written can be read again, appears whole, and replaces nothing unasked."""

import json
from pathlib import Path
from typing import Literal

import av
import pytest
import torch
from PIL import Image

from pcs_ext.errors import InputError, ResourceError, UsageError
from pcs_ext.video.clips import Clip, read_clip, sidecar, to_frames, to_video, write_clip
from pcs_ext.video.clips import write as writing
from tests.support.clips import moving, number_of, psnr


@pytest.mark.parametrize(
    ("name", "fps", "quality"), [("a.mp4", 8, 30), ("a.webm", 12.5, 28), ("a.gif", 10, 38), ("a.webp", 24, 28)]
)
def test_round_trip(tmp_path: Path, name: str, fps: float, quality: float) -> None:
    path = write_clip(moving(), tmp_path / "new" / name, fps=fps)
    clip = read_clip(path)
    assert clip.frames.shape == (12, 3, 32, 32)
    assert clip.fps == pytest.approx(fps, rel=0.01)
    assert psnr(clip.frames, moving()) > quality
    assert number_of(clip.frames) == list(range(12))
    assert [file.name for file in path.parent.iterdir()] == [name]


def test_folders_are_exact_and_know_their_rate(tmp_path: Path) -> None:
    path = write_clip(Clip(moving(), 7.5), tmp_path / "a", made_by={"prompt": "a toy"})
    clip = read_clip(path)
    assert torch.equal(clip.frames, moving())
    assert clip.fps == pytest.approx(7.5)
    assert json.loads((path / "clip.json").read_text())["made_by"] == {"prompt": "a toy"}


def boxes(path: Path) -> list[bytes]:
    data, offset, names = path.read_bytes(), 0, []
    while offset < len(data):
        names.append(data[offset + 4 : offset + 8])
        offset += int.from_bytes(data[offset : offset + 4], "big")
    return names


def test_mp4_plays_everywhere(tmp_path: Path) -> None:
    path = write_clip(moving(5, 33, 47), tmp_path / "a.mp4", fps=24)
    names = boxes(path)
    assert names.index(b"moov") < names.index(b"mdat")
    with av.open(path) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 24
    clip = read_clip(path)
    assert clip.size == (34, 48)  # padded, nothing is cut
    assert psnr(clip.frames[:, :, :33, :47], moving(5, 33, 47)) > 28


@pytest.mark.parametrize("name", ["a.mp4", "a.webm"])
@pytest.mark.parametrize(("height", "width"), [(64, 64), (720, 1280)])
def test_colours_are_kept_and_tagged(tmp_path: Path, name: str, height: int, width: int) -> None:
    colours = torch.tensor([[220, 30, 30], [30, 200, 40], [40, 60, 220], [255, 255, 255]], dtype=torch.uint8)
    frames = colours.T[None, :, None].repeat_interleave(width // 4, dim=3).expand(2, 3, height, width)
    path = write_clip(frames, tmp_path / name, fps=8)
    with av.open(path) as container:
        context = container.streams.video[0].codec_context
        tags = (context.colorspace, context.color_range, context.color_primaries, context.color_trc)
    assert tuple(map(int, tags)) == (1, 1, 1, 1)  # BT.709, and limited range
    readers: tuple[Literal["pyav", "decord"], ...] = ("pyav", "decord")
    for reader in readers:
        seen = read_clip(path, reader=reader).frames
        assert seen.shape == frames.shape
        middles = seen[:, :, height // 2, width // 8 :: width // 4]
        assert (middles.int() - colours.T.int()).abs().max() <= 3, reader


@pytest.mark.parametrize(
    ("name", "fps", "every"),
    [
        ("a.gif", 50, 1),
        ("a.gif", 60, 2),
        ("a.gif", 100, 2),
        ("a.gif", 240, 5),
        ("a.webp", 60, 1),
        ("a.webp", 90, 1),
        ("a.webp", 100, 2),
        ("a.webp", 240, 3),
    ],
)
def test_fast_animations_keep_their_duration(tmp_path: Path, name: str, fps: float, every: int) -> None:
    clip = read_clip(write_clip(moving(24), tmp_path / name, fps=fps))
    assert number_of(clip.frames) == list(range(0, 24, every))
    assert clip.times == pytest.approx([index / fps for index in range(0, 24, every)], abs=0.006)
    with Image.open(tmp_path / name) as image:
        for number in range(len(clip)):
            image.seek(number)
            image.load()
            assert image.info["duration"] > 10


def test_one_frame_and_one_pixel_can_be_written(tmp_path: Path) -> None:
    for suffix in (".mp4", ".webm", ".gif", ".webp", ""):
        write_clip(moving(1, 1, 1), tmp_path / f"a{suffix}", fps=5)
        assert read_clip(tmp_path / f"a{suffix}", frames=1).frames.shape[0] == 1


def test_model_outputs_are_taken(tmp_path: Path) -> None:
    video = to_video(moving())
    assert video.shape == (3, 12, 32, 32)
    assert (float(video.min()), float(video.max())) == (-1.0, pytest.approx(200 / 127.5 - 1))
    assert torch.equal(to_frames(video), moving())
    for name, tensor in (("a", video), ("b", video[None]), ("c", video[None].half() * 3)):
        write_clip(tensor, tmp_path / name, fps=8)
    assert torch.equal(read_clip(tmp_path / "a").frames, moving())
    assert torch.equal(read_clip(tmp_path / "b").frames, moving())
    assert Clip(moving(), 8).video().shape == (1, 3, 12, 32, 32)


def test_a_record_lies_beside(tmp_path: Path) -> None:
    path = write_clip(moving(), tmp_path / "a.mp4", fps=8, made_by={"seed": 3})
    record = json.loads(sidecar(path).read_text())
    assert record == {"fps": 8.0, "frames": 12, "height": 32, "width": 32, "made_by": {"seed": 3}}
    assert sidecar(path).name == "a.mp4.json"


@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a"])
def test_nothing_is_replaced_unasked(tmp_path: Path, name: str) -> None:
    path = write_clip(moving(), tmp_path / name, fps=8)
    with pytest.raises(InputError, match=r"is there already; choose another name.*overwrite=True"):
        write_clip(moving(3), path, fps=8)
    assert len(read_clip(path)) == 12
    write_clip(moving(3), path, fps=8, overwrite=True)
    assert len(read_clip(path)) == 3


def test_foreign_folders_are_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.png").write_bytes(b"precious")
    with pytest.raises(InputError, match="was not written as a clip; it is never replaced"):
        write_clip(moving(), tmp_path / "photos", fps=8, overwrite=True)
    (tmp_path / "b.mp4").mkdir()
    with pytest.raises(InputError, match="is a folder; expected a file"):
        write_clip(moving(), tmp_path / "b.mp4", fps=8, overwrite=True)
    assert (tmp_path / "photos" / "mine.png").read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "a.webp", "a"])
def test_ctrl_c_leaves_nothing_and_keeps_the_old(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_clip(moving(2), tmp_path / name, fps=8)
    real, calls = writing.Image.fromarray, []

    def stop(*arguments: object) -> object:
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(writing.Image, "fromarray", stop)
    monkeypatch.setattr(writing.np, "pad", lambda pixels, *_, **__: stop(pixels) and pixels)
    with pytest.raises(KeyboardInterrupt):
        write_clip(moving(), path, fps=8, overwrite=True)
    monkeypatch.undo()
    assert [file.name for file in tmp_path.iterdir()] == [name]
    assert len(read_clip(path)) == 2


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.avi; expected \.mp4"):
        write_clip(moving(), tmp_path / "a.avi", fps=8)
    with pytest.raises(UsageError, match="fps is None; expected frames per second"):
        write_clip(moving(), tmp_path / "a.mp4")
    with pytest.raises(UsageError, match=r"frames are \(12, 3, 32, 32\) torch\.float32; expected f 3 h w uint8"):
        write_clip(moving().float(), tmp_path / "a.mp4", fps=8)
    with pytest.raises(UsageError, match="NaN or infinite"):
        write_clip(torch.full((3, 2, 8, 8), torch.nan), tmp_path / "a.mp4", fps=8)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match="could not be written"):
        write_clip(moving(), tmp_path / "file" / "a.mp4", fps=8)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]
