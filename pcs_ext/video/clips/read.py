"""Reading clips of any common format; whatever cannot be used is named with its reason."""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Literal

import torch

from pcs_ext.errors import InputError, UsageError
from pcs_ext.video.clips.clip import Clip
from pcs_ext.video.clips.decoder.request import Request
from pcs_ext.video.clips.process import decode

FOLDER_RECORD = "clip.json"


def read_clip(
    path: Path | str,
    *,
    frames: int | None = None,
    stride: int | None = None,
    seconds: float | None = None,
    start: float = 0.0,
    size: int | tuple[int, int] | None = None,
    multiple_of: int = 1,
    fps: float | None = None,
    reader: Literal["auto", "pyav", "decord"] = "auto",
    time_limit: float = 120.0,
) -> Clip:
    """Read a video file, an animated picture or a folder of pictures.

    Read are MP4, MOV, WebM, MKV, GIF, animated WebP and PNG, told apart by content. Frames are sampled by time, so a
    variable frame rate keeps its motion; they are turned upright, transparency is laid over gray (as in photos), more
    than 8 bits are reduced, sound is ignored; `Clip.notes` says so. Decoding runs in a process of its own with limits
    on memory and time and opens no file but this one. Ctrl-C ends it.

    Args:
        path: file or folder (pictures in natural order).
        frames: how many; alone: evenly spread from the first to the last frame; with `stride`: the first so many.
        stride: take every so-many-th frame, at the mean frame rate.
        seconds: length of the part that is read; all when None.
        start: where it begins, in seconds from the first frame.
        size: side of a square or (height, width): scaled with anti-aliasing to cover it, then cropped at the centre.
        multiple_of: height and width are cropped (or `size` rounded down) to multiples of this.
        fps: rate of a folder of pictures; default what `write_clip` recorded there, else 8.
        reader: `pyav`, `decord`, or `auto`: PyAV where it is installed, else decord.
        time_limit: seconds after which decoding is given up; a decoder that yields nothing for 8 s is ended anyway.

    Returns:
        A clip of `f 3 h w` uint8 frames at a constant rate. Without `frames` and `stride` every frame is taken.

    Raises:
        UsageError: arguments out of range or contradictory.
        InputError: the file cannot be used; says what was expected, what came and what to do.
    """
    if frames is not None and stride is not None and seconds is not None:
        raise UsageError("frames, stride and seconds were all given; expected at most two of them.")
    _check(frames=frames, stride=stride, seconds=seconds, multiple_of=multiple_of, fps=fps, time_limit=time_limit)
    if not (math.isfinite(start) and start >= 0):
        raise UsageError(f"start is {start}; expected seconds from 0 on.")
    height, width = (size, size) if isinstance(size, int) or size is None else size
    _check(height=height, width=width)
    request = Request(
        path=_absolute(path),
        frames=frames,
        stride=stride,
        seconds=seconds,
        start=start,
        height=height,
        width=width,
        multiple_of=multiple_of,
        fps=fps or _recorded_fps(Path(path)),
        reader=reader,
    )
    pixels, info = decode(dataclasses.asdict(request), time_limit=time_limit)
    tensor = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return Clip(tensor, info["fps"], Path(path), tuple(info["times"]), tuple(info["notes"]))


def _check(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            raise UsageError(f"{name} is {value}; expected a number above 0.")


def _absolute(path: Path | str) -> str:
    """FFmpeg takes `x:y` for a protocol; what begins at the root is always a file."""
    text = os.path.abspath(path)
    if "\0" in text:
        raise InputError(f"{text!r} is no file name (it holds a null character).")
    return text


def _recorded_fps(folder: Path) -> float | None:
    try:
        with open(folder / FOLDER_RECORD, encoding="utf-8") as handle:
            fps = json.loads(handle.read(2**20)).get("fps")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None  # a folder of pictures from elsewhere
    return float(fps) if isinstance(fps, (int, float)) and 0 < fps <= 1000 else None
