"""A field seen all around, as an animation."""

import io
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from pcs_ext.config_io import atomic_write_bytes
from pcs_ext.errors import UsageError

_SETTINGS = {"webp": {"lossless": False, "quality": 90}, "gif": {"disposal": 2}}


def write_turntable(path: Path, frames: Tensor, frames_per_second: float = 20.0) -> None:
    """Write an endless animation, WebP or GIF by the path's ending.

    Args:
        path: ends in .webp or .gif.
        frames: `n 3 h w` in [0, 1], for instance `render_views(field, ring(60), ...).rgb`.
        frames_per_second: GIF rounds the time of a frame to hundredths of a second.

    Raises:
        UsageError: another ending, no frames, or a rate that is not positive.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in _SETTINGS:
        raise UsageError(f"expected a file ending in {' or '.join(_SETTINGS)}, got {path.name!r}. Choose one of these.")
    if frames.dim() != 4 or frames.shape[1] != 3 or not len(frames) or frames_per_second <= 0:
        raise UsageError(
            f"expected frames `n 3 h w` and a rate above 0, got {tuple(frames.shape)}, {frames_per_second}."
        )
    pixels = (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    pictures = [Image.fromarray(np.ascontiguousarray(frame)) for frame in pixels]
    buffer = io.BytesIO()
    pictures[0].save(
        buffer,
        format=kind.upper(),
        save_all=True,
        append_images=pictures[1:],
        duration=round(1000 / frames_per_second),
        loop=0,
        **_SETTINGS[kind],
    )
    atomic_write_bytes(path, buffer.getvalue())
