"""FreeNoise (Qiu et al. 2023, arXiv 2310.15169): clips longer than temporal layers were made for, without training.

Temporal layers see windows of the length they know, whose results are averaged, and later windows start from the
first one's noise in another order.
"""

import torch
from torch import Tensor

from pcs_ext.errors import UsageError


def rescheduled_noise(shape: tuple[int, ...], window: int, stride: int, generator: torch.Generator) -> Tensor:
    """Unit normal noise `b c f h w`: the first `window` frames are drawn, then every `stride` frames are those that lie
    a window before, in another order.

    Args:
        shape: `(b, c, f, h, w)`.
        window: frames that temporal layers see at once.
        stride: frames from one window to the next.
        generator: on the CPU.

    Raises:
        UsageError: a stride outside [1, window].
    """
    _check(window, stride)
    b, c, frames, h, w = shape
    noise = torch.randn((b, c, min(window, frames), h, w), generator=generator)
    while noise.shape[2] < frames:
        source = noise[:, :, noise.shape[2] - window :][:, :, :stride]
        noise = torch.cat([noise, source[:, :, torch.randperm(source.shape[2], generator=generator)]], 2)
    return noise[:, :, :frames]


def window_starts(frames: int, window: int, stride: int) -> list[int]:
    """First frames of windows that cover a clip; the last window ends with it.

    Raises:
        UsageError: a stride outside [1, window].
    """
    _check(window, stride)
    last = max(frames - window, 0)
    return sorted({*range(0, last, stride), last})


def window_weights(window: int) -> Tensor:
    """How much the frames of a window count where windows overlap: a pyramid, most in the middle (eq. 9)."""
    place = torch.arange(window, dtype=torch.float32)
    return torch.minimum(place, window - 1 - place) + 1


def _check(window: int, stride: int) -> None:
    if window < 2 or not 1 <= stride <= window:
        raise UsageError(
            f"windows need at least two frames and a stride of at most their length, got {window}, {stride}."
        )
