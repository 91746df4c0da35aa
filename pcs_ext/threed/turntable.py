"""A thing seen all around: an animation or a film, or a sheet of views."""

import io
import math
import os
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from pcs_ext.config_io import atomic_write_bytes, fsync_folder
from pcs_ext.errors import ResourceError, UsageError
from pcs_ext.image.png import png_bytes
from pcs_ext.threed.cameras import ring
from pcs_ext.threed.fields import AbstractField
from pcs_ext.threed.render import RenderConfig, render_views

_SETTINGS = {"webp": {"lossless": False, "quality": 90}, "gif": {"disposal": 2}}
KINDS = (*_SETTINGS, "mp4")
_FASTEST = {"gif": 50, "webp": 90}
"""Frames per second at which every rounded delay is above 10 ms; players show shorter ones for 100 ms."""
_RATES = (0.01, 240.0)
"""What all kinds can say."""


def write_turntable(path: Path, frames: Tensor, frames_per_second: float = 20.0) -> None:
    """Write an endless animation (WebP or GIF) or a film (MP4: H.264, for any player) by the path's ending.

    Args:
        path: ends in .webp, .gif or .mp4.
        frames: `n 3 h w` in [0, 1], for instance `render_views(field, ring(60), ...).rgb`. MP4 needs even sides: an odd
            one is padded by repeating its last row or column.
        frames_per_second: 0.01 to 240. GIF counts in hundredths of a second and WebP in thousandths: delays are rounded
            so that their sum keeps the rate; above 50 and 90 every k-th frame is written.

    Raises:
        UsageError: another ending, no frames, or a rate out of range.
        ResourceError: the film cannot be written.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in KINDS:
        raise UsageError(f"expected a file ending in {', '.join(KINDS)}, got {path.name!r}. Choose one of these.")
    if frames.dim() != 4 or frames.shape[1] != 3 or not len(frames):
        raise UsageError(f"expected frames `n 3 h w`, got {tuple(frames.shape)}.")
    check_rate(frames_per_second)
    pixels = levels(frames)
    if kind == "mp4":
        _write_film(path, pixels, frames_per_second)
        return
    every = math.ceil(frames_per_second / _FASTEST[kind])
    pictures = [Image.fromarray(frame) for frame in pixels[::every]]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        format=kind.upper(),
        save_all=True,
        append_images=pictures[1:],
        duration=_delays(len(pictures), frames_per_second / every, 10 if kind == "gif" else 1),
        loop=0,
        **_SETTINGS[kind],
    )
    atomic_write_bytes(path, buffer.getvalue())


def check_rate(frames_per_second: float) -> None:
    """See that a film can have a rate.

    Raises:
        UsageError: it is out of range.
    """
    least, most = _RATES
    if not least <= frames_per_second <= most:
        raise UsageError(f"expected {least} to {most:g} frames per second, got {frames_per_second}.")


def _delays(count: int, rate: float, unit: int) -> list[int]:
    """Milliseconds that each of `count` frames is shown for, multiples of a unit whose sum keeps the rate."""
    ends = np.rint(np.arange(count + 1) * 1000 / rate / unit) * unit
    return np.diff(ends).astype(int).tolist()


def levels(frames: Tensor) -> np.ndarray:
    """Frames `n 3 h w` in [0, 1] as 8-bit `n h w 3`."""
    pixels = (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return np.ascontiguousarray(pixels)


def sheet(frames: Tensor, columns: int = 4) -> bytes:
    """Frames `n 3 h w` in [0, 1], row by row, as one PNG."""
    pixels = levels(frames)
    count, height, width, _ = pixels.shape
    rows = -(-count // columns)
    whole = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for index, frame in enumerate(pixels):
        top, left = index // columns * height, index % columns * width
        whole[top : top + height, left : left + width] = frame
    return png_bytes(Image.fromarray(whole))


def contact_sheet(field: AbstractField, *, side: int = 64, samples: int = 64, views: int = 8) -> bytes:
    """A field from all around, colours above opacity, as a PNG."""
    import torch

    seen = render_views(field, ring(views, target=field.bounds.center), side, side, RenderConfig(samples=samples))
    return sheet(torch.cat([seen.rgb, seen.opacity[:, None].expand(-1, 3, -1, -1)]), columns=views)


def _write_film(path: Path, pixels: np.ndarray, rate: float) -> None:
    import imageio.v2 as imageio

    height, width = pixels.shape[1:3]
    even = np.pad(pixels, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=".mp4")
    os.close(handle)
    temporary = Path(name)
    options = ["-crf", "16", "-movflags", "+faststart"]
    try:
        imageio.mimwrite(temporary, list(even), fps=rate, codec="libx264", macro_block_size=2, output_params=options)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ResourceError(f"{path} could not be written ({error}); check the disk's space and permissions.") from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)
