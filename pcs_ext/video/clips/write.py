"""Writing clips: every file appears whole or not at all, and nothing is replaced unless that is asked for."""

import contextlib
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pcs_ext.config_io import atomic_folder, fsync_folder, write_json
from pcs_ext.errors import InputError, ResourceError, UsageError
from pcs_ext.video.clips.clip import Clip, to_frames
from pcs_ext.video.clips.read import FOLDER_RECORD

SUFFIXES = (".mp4", ".webm", ".gif", ".webp")
_VIDEO = {
    ".mp4": ("libx264", ["-crf", "16", "-preset", "medium", "-movflags", "+faststart"]),
    ".webm": ("libvpx-vp9", ["-crf", "24", "-b:v", "0", "-row-mt", "1"]),
}
_FASTEST = {".gif": 50, ".webp": 90}
"""Frames per second at which every rounded delay is still above 10 ms; players show shorter ones for 100 ms."""
# Players take untagged video for BT.601 or, from 720 lines on, for BT.709; with a tag there is nothing to guess.
# The filter sets primaries and transfer, too: FFmpeg takes them from the frames, over the options for the encoder.
_COLOURS = [
    "-vf",
    "scale=out_color_matrix=bt709:out_range=tv,format=yuv420p,setparams=color_primaries=bt709:color_trc=bt709",
    *("-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709", "-color_range", "tv"),
]


def write_clip(
    frames: Clip | Tensor,
    path: Path | str,
    *,
    fps: float | None = None,
    overwrite: bool = False,
    made_by: dict[str, Any] | None = None,
) -> Path:
    """Write a clip; the suffix chooses the kind, no suffix a folder of PNG pictures (exact, with `clip.json`).

    `.mp4` is H.264, yuv420p, with the index in front (faststart); `.webm` VP9. Both are tagged as BT.709 in
    limited range. Both need even sides: an odd one is padded by repeating its last row or column, nothing is cut.
    `.gif` and `.webp` are looping previews; of clips above 50 (GIF) or 90 (WebP) frames per second only every k-th
    frame is kept, at the same speed.

    Args:
        frames: a clip, `f 3 h w` uint8, or `3 f h w` / `1 3 f h w` float in [-1, 1] as models give it.
        path: where to; its folder is created.
        fps: frames per second, above 0 and up to 240; a clip brings its own.
        overwrite: replace what is there; otherwise that is an error.
        made_by: JSON-able record of what made the clip, written beside it as `NAME.SUFFIX.json`, in a folder as part of
            `clip.json`.

    Returns:
        The path.

    Raises:
        UsageError: no rate, an unknown suffix, or frames of another shape.
        InputError: something is there already.
        ResourceError: it cannot be written (disk full, no permission, encoder failed).
    """
    path = Path(path)
    pixels, rate = _pixels(frames), _rate(frames, fps)
    suffix = path.suffix.lower()
    if suffix not in ("", *SUFFIXES):
        raise UsageError(f"{path} ends in {path.suffix}; expected {', '.join(SUFFIXES)}, or no suffix for a folder.")
    _check_free(path, is_folder=not suffix, overwrite=overwrite)
    record = {"fps": rate, "frames": len(pixels), "height": pixels.shape[1], "width": pixels.shape[2]}
    record |= {} if made_by is None else {"made_by": made_by}
    try:
        if not suffix:
            _write_folder(pixels, path, record)
            return path
        with _appearing(path) as temporary:
            _write_video(pixels, temporary, rate) if suffix in _VIDEO else _write_animation(pixels, temporary, rate)
        if made_by is not None:
            write_json(sidecar(path), record)
    except OSError as error:
        reason = (error.strerror or str(error)).splitlines()[0][:200]
        raise ResourceError(
            f"{path} could not be written ({reason}). Check the disk's space and permissions."
        ) from None
    return path


def sidecar(path: Path) -> Path:
    """Where the record of a clip's making is kept."""
    return path.with_name(path.name + ".json")


def _pixels(frames: Clip | Tensor) -> np.ndarray:
    """`f h w 3` uint8."""
    tensor = frames.frames if isinstance(frames, Clip) else frames
    shape = tuple(tensor.shape)
    if tensor.dtype == torch.uint8:
        good = tensor.ndim == 4 and shape[1] == 3
    else:
        good = tensor.is_floating_point() and (
            (tensor.ndim == 4 and shape[0] == 3) or (tensor.ndim == 5 and shape[:2] == (1, 3))
        )
    if not good or 0 in shape:
        raise UsageError(
            f"frames are {shape} {tensor.dtype}; expected f 3 h w uint8, or 3 f h w or 1 3 f h w float in [-1, 1]."
        )
    if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
        raise UsageError("frames hold NaN or infinite values; expected [-1, 1]. The model that made them has diverged.")
    tensor = tensor if tensor.dtype == torch.uint8 else to_frames(tensor)
    return tensor.permute(0, 2, 3, 1).cpu().contiguous().numpy()


def _rate(frames: Clip | Tensor, fps: float | None) -> float:
    rate = frames.fps if fps is None and isinstance(frames, Clip) else fps
    if rate is None or not 0 < rate <= 240:
        raise UsageError(f"fps is {rate}; expected frames per second above 0 and up to 240.")
    return float(rate)


def _check_free(path: Path, *, is_folder: bool, overwrite: bool) -> None:
    if not os.path.lexists(path):
        return
    if not overwrite:
        raise InputError(f"{path} is there already; choose another name, or overwrite it on purpose (overwrite=True).")
    if path.is_dir() != is_folder:
        kind = "a folder" if path.is_dir() else "a file"
        raise InputError(f"{path} is {kind}; expected {'a folder' if is_folder else 'a file'}. Choose another name.")
    if is_folder and any(path.iterdir()) and not (path / FOLDER_RECORD).is_file():
        raise InputError(
            f"{path} is a folder that was not written as a clip; it is never replaced. Choose another name."
        )


@contextlib.contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A hidden file of the same suffix that takes the name `path` when it is done, and is removed on any error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem[:100]}.", suffix=".tmp" + path.suffix.lower())
    temporary = Path(name)
    mode = os.fstat(handle).st_mode
    os.close(handle)
    try:
        yield temporary
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, mode | 0o044)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def _write_video(pixels: np.ndarray, path: Path, fps: float) -> None:
    codec, options = _VIDEO[path.suffix]
    writer = imageio.get_writer(
        path,
        format="FFMPEG",  # type: ignore[arg-type]
        mode="I",
        fps=fps,
        codec=codec,
        quality=None,
        pixelformat="yuv420p",
        macro_block_size=1,
        output_params=options + _COLOURS,
        ffmpeg_log_level="error",
    )
    try:
        for frame in _even(pixels):
            writer.append_data(frame)
    finally:
        writer.close()
    if path.stat().st_size == 0:
        raise OSError(f"the encoder {codec} wrote nothing")


def _even(pixels: np.ndarray) -> Iterator[np.ndarray]:
    height, width = pixels.shape[1:3]
    for frame in pixels:
        yield np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")


def _write_animation(pixels: np.ndarray, path: Path, fps: float) -> None:
    """GIF counts in 1/100 s and WebP in 1/1000 s: delays are rounded so that their sum keeps the rate.

    Of clips that are too fast for the kind only every k-th frame is written, so that the duration is kept.
    """
    every = math.ceil(fps / _FASTEST[path.suffix])
    pixels, fps = pixels[::every], fps / every
    unit = 10 if path.suffix == ".gif" else 1
    ends = np.rint(np.arange(len(pixels) + 1) * 1000 / fps / unit) * unit
    durations = np.maximum(np.diff(ends), 2 * unit).astype(int).tolist()
    images = [Image.fromarray(frame) for frame in pixels]
    options: dict[str, Any] = {"lossless": False, "quality": 90} if path.suffix == ".webp" else {"optimize": False}
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0, **options)


def _write_folder(pixels: np.ndarray, path: Path, record: dict[str, Any]) -> None:
    digits = max(5, len(str(len(pixels))))
    with atomic_folder(path) as folder:
        for index, frame in enumerate(pixels):
            Image.fromarray(frame).save(folder / f"{index:0{digits}d}.png")
        write_json(folder / FOLDER_RECORD, record)
