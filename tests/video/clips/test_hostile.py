"""Hostile and odd files: each is read right or refused by name within 10 s; nothing else is opened, nothing crashes."""

import os
import pickle
import random
import struct
import threading
import time
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from pcs_ext.errors import InputError
from pcs_ext.video.clips import read_clip
from tests.support.clips import animate, encode, ffmpeg, moving, number_of, pictures, repeat_packets

LIMIT = 10.0


def attempt(path: Path, **arguments: int) -> InputError | None:
    """Read three frames: the refusal, or None when they came. Slow or nameless refusals fail here."""
    began = time.monotonic()
    try:
        clip = read_clip(path, **{"frames": 3, **arguments})  # type: ignore[arg-type]
    except InputError as refusal:
        clip, error = None, refusal
    else:
        error = None
    assert time.monotonic() - began < LIMIT
    assert clip is None or len(clip) == arguments.get("frames", 3)
    assert error is None or str(error).startswith(str(path))
    return error


def originals(folder: Path) -> dict[str, bytes]:
    """One good clip of each kind."""
    paths = [
        encode(folder / "a.mp4", movflags="faststart"),
        encode(folder / "a.webm", codec="libvpx-vp9"),
        encode(folder / "a.mov", codec="mjpeg", pix_fmt="yuvj420p"),
        animate(folder / "a.gif"),
        animate(folder / "a.webp"),
        animate(folder / "a.png"),
    ]
    return {path.name: path.read_bytes() for path in paths}


def test_cut_off_anywhere(tmp_path: Path) -> None:
    refused = 0
    for name, data in originals(tmp_path).items():
        for share in (0.05, 0.5, 0.97):
            path = tmp_path / f"cut-{share}-{name}"
            path.write_bytes(data[: int(len(data) * share)])
            refused += attempt(path) is not None
            if path.suffix in (".mp4", ".mov", ".webm", ".webp"):
                assert attempt(path, frames=12) is not None  # these formats state their length
    assert refused >= 15


def test_flipped_bits(tmp_path: Path) -> None:
    dice = random.Random(0)
    for name, data in originals(tmp_path).items():
        for number in range(4):
            damaged = bytearray(data)
            for _ in range(4**number):
                damaged[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
            path = tmp_path / f"flip-{number}-{name}"
            path.write_bytes(damaged)
            attempt(path)


def png_of_size(width: int, height: int, frames: int = 1) -> bytes:
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)),
        (b"acTL", struct.pack(">II", frames, 0)),
    ]
    chunks += [(b"IDAT", zlib.compress(b"\0" * 100)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(d)) + n + d + struct.pack(">I", zlib.crc32(n + d)) for n, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


BAD: dict[str, tuple[bytes, str]] = {
    "empty.mp4": (b"", "is empty"),
    "one-byte.mp4": (b"\0", "no video that is known"),
    "text.mp4": (b"hello, this is no video", "is a text file, whatever its name says"),
    "page.mp4": (b"<!doctype html><html></html>", "HTML or XML"),
    "spaces.webm": (b"   \n <html></html>", "HTML or XML"),
    "pickle.mp4": (pickle.dumps({"a": 1}), "is a pickle"),
    "zip.gif": (b"PK\x03\x04" + bytes(60), "is a zip archive"),
    "paper.webm": (b"%PDF-1.7\n", "is a PDF"),
    "program.mov": (b"\x7fELF" + bytes(100), "is a program"),
    "script.mp4": (b"#!/bin/sh\nrm -rf x\n", "is a script"),
    "photo.mp4": (b"\xff\xd8\xff\xe0" + bytes(100), "is a JPEG"),
    "film.avi": (b"RIFF\x10\0\0\0AVI LIST" + bytes(50), "is an AVI file"),
    "noise.mp4": (random.Random(1).randbytes(5000), "no video that is known"),
    "zeros.mp4": (bytes(5000), "no video that is known"),
    "only-ftyp.mp4": (struct.pack(">I4s4sI", 16, b"ftyp", b"isom", 0), "holds no index"),
    "zero-box.mp4": (struct.pack(">I4s4sI", 16, b"ftyp", b"isom", 0) + struct.pack(">I4s", 3, b"moov"), "a box of 3"),
    "huge-box.mp4": (struct.pack(">I4sQ", 1, b"moov", 2**62) + bytes(50), "is cut off"),
    "empty-moov.mp4": (struct.pack(">I4s4sI", 16, b"ftyp", b"isom", 0) + struct.pack(">I4s", 8, b"moov"), ""),
    "nested.mp4": (b"".join(struct.pack(">I4s", 8 * (400 - i), b"moov") for i in range(400)), ""),
    "ebml.webm": (b"\x1a\x45\xdf\xa3\x84doct", "neither Matroska nor WebM"),
    "ebml-huge.webm": (b"\x1a\x45\xdf\xa3\x01\xff\xff\xff\xff\xff\xff\xf0", "no sensible size"),
    "gif-head.gif": (b"GIF89a", "damaged or cut off"),
    "gif-none.gif": (b"GIF89a\x20\0\x20\0\0\0\0;", ""),
    "webp.webp": (b"RIFF\xff\xff\xff\x7fWEBPVP8 ", "is cut off"),
    "gigapixel.png": (png_of_size(40_000, 40_000), "40000 x 40000 pixels; expected at most 40 megapixels"),
    "many.png": (png_of_size(32, 32, 2**31 - 1), ""),
    "one.png": (png_of_size(32, 32), ""),
}


@pytest.mark.parametrize("name", BAD)
def test_disguised_and_broken_files(tmp_path: Path, name: str) -> None:
    data, message = BAD[name]
    (tmp_path / name).write_bytes(data)
    error = attempt(tmp_path / name)
    assert error is not None
    assert message in str(error)


PLAYLISTS: dict[str, Callable[[str], str]] = {
    "hls.mp4": lambda target: f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n",
    "hls.m3u8": lambda target: f"#EXTM3U\n#EXTINF:9,\nfile://{target}\n",
    "bom.mp4": lambda target: f"\ufeff#EXTM3U\n#EXTINF:9,\n{target}\n",
    "concat.mp4": lambda target: f"ffconcat version 1.0\nfile '{target}'\n",
    "concat.txt": lambda target: f"file '{target}'\n",
    "session.sdp": lambda target: (
        "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 9 RTP/AVP 96\n"
    ),
    "dash.mpd": lambda target: f"<?xml version='1.0'?><MPD><Period><BaseURL>{target}</BaseURL></Period></MPD>",
    "list.pls": lambda target: f"[playlist]\nFile1={target}\n",
    "pictures.mp4": lambda target: f"{target}%d.png",
    "smil.mov": lambda target: f"SMILtext<smil><video src='{target}'/></smil>",
    "rtsp.mov": lambda target: f"RTSPtext\nrtsp://127.0.0.1/{target}",
}


@pytest.mark.parametrize("name", PLAYLISTS)
def test_playlists_do_not_open_what_they_name(tmp_path: Path, name: str) -> None:
    # Somebody who opens a FIFO for reading lets a waiting writer through: it tells that the file was touched.
    secret, path = tmp_path / "secret.mp4", tmp_path / name
    os.mkfifo(secret)
    opened = threading.Event()
    threading.Thread(target=lambda: (open(secret, "wb").close(), opened.set()), daemon=True).start()
    path.write_text(PLAYLISTS[name](str(secret)), encoding="utf-8")
    error = attempt(path)
    assert error is not None
    assert "expected MP4" in str(error)
    assert not opened.is_set()
    os.close(os.open(secret, os.O_RDONLY))  # lets the thread end


def test_quicktime_references_to_other_files_are_not_followed(tmp_path: Path) -> None:
    data = encode(tmp_path / "a.mov").read_bytes()
    secret = tmp_path / "secret.mov"
    os.mkfifo(secret)
    opened = threading.Event()
    threading.Thread(target=lambda: (open(secret, "wb").close(), opened.set()), daemon=True).start()
    # A self-contained `url ` entry (flag 1) becomes one that points elsewhere (flag 0).
    at = data.index(b"dref") + 12
    kind = data[at + 4 : at + 8]
    (tmp_path / "b.mov").write_bytes(data[: at + 8] + b"\0\0\0\0" + data[at + 12 :])
    assert kind in (b"url ", b"alis")
    attempt(tmp_path / "b.mov")
    assert not opened.is_set()
    os.close(os.open(secret, os.O_RDONLY))


def test_things_that_are_no_files(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "loop.mp4").symlink_to(tmp_path / "loop.mp4")
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name, message in {
        "pipe.mp4": "is not a regular file",
        "loop.mp4": "cannot be opened",
        "gone.mp4": "cannot be opened",
        "missing.mp4": "cannot be opened",
        "folder.mp4": "holds no pictures",
        "zero": "is not a regular file",
        "a" * 300: "cannot be opened",
        "pipe.mp4/x.mp4": "cannot be opened",
    }.items():
        error = attempt(tmp_path / name)
        assert error is not None
        assert message in str(error)
    with pytest.raises(InputError, match="null character"):
        read_clip("a\0b.mp4")


def test_names_are_never_taken_for_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encode(tmp_path / "a.mp4").read_bytes()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "http:").mkdir()
    for name in (
        "concat:a.mp4|a.mp4",
        "http:/x.mp4",
        "-i.mp4",
        "a b'\"$(x).mp4",
        "é\n.mp4",
        "data:,x",
        "%d.mp4",
        "@.mp4",
    ):
        Path(name).write_bytes(data)
        assert number_of(read_clip(name, frames=3).frames) == [0, 5, 11]
    os.close(os.open(b"\xff\xfe.mp4", os.O_CREAT | os.O_WRONLY))
    with pytest.raises(InputError, match="is empty"):
        read_clip(os.fsdecode(b"\xff\xfe.mp4"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_no_permission(tmp_path: Path) -> None:
    path = encode(tmp_path / "a.mp4")
    path.chmod(0)
    error = attempt(path)
    assert error is not None
    assert "Permission denied" in str(error)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif", "a.webp"])
def test_one_frame_is_no_clip(tmp_path: Path, name: str) -> None:
    if name in ("a.mp4", "a.webm"):
        path = encode(tmp_path / name, moving(1), codec="libx264" if name == "a.mp4" else "libvpx-vp9")
    else:
        path = tmp_path / name
        pictures(moving(1))[0].save(path)
    error = attempt(path)
    assert error is not None
    assert "holds one frame; expected a clip" in str(error)
    assert attempt(path, frames=1) is None


def test_folders_with_something_wrong(tmp_path: Path) -> None:
    def folder(name: str) -> Path:
        (tmp_path / name).mkdir()
        for index, image in enumerate(pictures(moving(4))):
            image.save(tmp_path / name / f"{index}.png")
        return tmp_path / name

    (folder("cut") / "2.png").write_bytes((tmp_path / "cut/2.png").read_bytes()[:60])
    Image.new("RGB", (16, 16)).save(folder("sizes") / "3.png")
    (folder("bomb") / "0.png").write_bytes(png_of_size(40_000, 40_000))
    (folder("page") / "1.png").write_text("<html></html>")
    os.mkfifo(folder("pipe") / "00.png")
    (folder("loop") / "00.png").symlink_to("00.png")
    (folder("record") / "clip.json").write_text("[" * 100_000)
    for name, message in {
        "cut": "2.png",
        "sizes": "several sizes: 3.png is 16 x 16",
        "bomb": "0.png",
        "page": "1.png",
    }.items():
        error = attempt(tmp_path / name, frames=4)
        assert error is not None
        assert message in str(error)
    for name in ("pipe", "loop", "record"):
        assert attempt(tmp_path / name, frames=4) is None


def test_many_frames_are_not_held(tmp_path: Path) -> None:
    path = repeat_packets(tmp_path / "a.mp4", 100_000)
    assert attempt(path) is None
    assert attempt(path, frames=8, stride=10_000) is None
    assert len(read_clip(path, start=3000, seconds=1).frames) == 25


def test_results_that_would_not_fit(tmp_path: Path) -> None:
    path = repeat_packets(tmp_path / "a.mp4", 3000)
    with pytest.raises(
        InputError, match=r"would unpack to 3000 frames of 2048 x 2048 \(35\.2 GiB\); expected at most 2 GiB"
    ):
        read_clip(path, size=2048)


def test_lies_about_size_and_count(tmp_path: Path) -> None:
    gif = animate(tmp_path / "a.gif").read_bytes()
    (tmp_path / "wide.gif").write_bytes(gif[:6] + b"\xff\xff\xff\xff" + gif[10:])
    error = attempt(tmp_path / "wide.gif")
    assert error is not None
    assert "65535 x 65535 pixels; expected at most 40 megapixels" in str(error)
    data = encode(tmp_path / "a.mp4").read_bytes()
    at = data.index(b"avc1") + 4 + 24
    (tmp_path / "wide.mp4").write_bytes(data[:at] + struct.pack(">HH", 65535, 65535) + data[at + 4 :])
    attempt(tmp_path / "wide.mp4")
    for box, offset in (
        (b"stsz", 12),
        (b"stts", 8),
        (b"stts", 12),
        (b"stsc", 8),
        (b"stco", 8),
        (b"ctts", 8),
        (b"mdhd", 16),
    ):
        at = data.find(box) + offset
        if at < offset:
            continue
        path = tmp_path / f"{box.decode()}{offset}.mp4"
        path.write_bytes(data[:at] + b"\x7f\xff\xff\xff" + data[at + 4 :])
        attempt(path)


def test_a_clip_that_changes_its_size(tmp_path: Path) -> None:
    for name, side in (("a", 32), ("b", 64)):
        encode(tmp_path / f"{name}.mp4", moving(12, side, side))
        ffmpeg("-i", tmp_path / f"{name}.mp4", "-c", "copy", "-f", "mpegts", tmp_path / f"{name}.ts")
    (tmp_path / "both.ts").write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    ffmpeg("-i", tmp_path / "both.ts", "-c", "copy", tmp_path / "both.mkv")
    error = attempt(tmp_path / "both.mkv", frames=20)
    assert error is not None
    assert "changes its size from 32 x 32 to 64 x 64" in str(error)


def test_archives_with_clips_inside_are_not_opened(tmp_path: Path) -> None:
    encode(tmp_path / "a.mp4")
    with zipfile.ZipFile(tmp_path / "b.mp4", "w") as archive:
        archive.write(tmp_path / "a.mp4", "a.mp4")
    error = attempt(tmp_path / "b.mp4")
    assert error is not None
    assert "is a zip archive" in str(error)


def test_endless_work_is_given_up(tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=r"took too long to decode \(0\.01 s\)"):
        read_clip(encode(tmp_path / "a.mp4"), time_limit=0.01)
    assert time.monotonic() - began < 5
