"""A clip in memory."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from pcs_ext.image.levels import in_unit_range, levels_of


@dataclasses.dataclass(frozen=True)
class Clip:
    """Frames of one video, upright, opaque, at a constant rate."""

    frames: Tensor
    """`f 3 h w` uint8 in [0, 255]: a quarter of the memory of floats, and writing and reading again is exact."""
    fps: float
    """Frames per second at which these frames show the motion at its speed."""
    path: Path | None = None
    """The file or folder they were read from."""
    times: tuple[float, ...] = ()
    """Seconds from the original's first frame at which each frame appears there."""
    notes: tuple[str, ...] = ()
    """What the reader did that a user may want to know: sound ignored, turned upright, sampled by time..."""

    def __post_init__(self) -> None:
        assert self.frames.dtype == torch.uint8, self.frames.dtype
        assert self.frames.shape[1:2] == (3,), tuple(self.frames.shape)
        assert self.frames.ndim == 4, tuple(self.frames.shape)

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.frames.shape[2], self.frames.shape[3]

    def video(self) -> Tensor:
        """`1 3 f h w` float32 in [-1, 1], as models take it."""
        return to_video(self.frames)[None]


def to_video(frames: Tensor) -> Tensor:
    """`f 3 h w` uint8 -> `3 f h w` float32 in [-1, 1]."""
    return in_unit_range(frames).transpose(0, 1).contiguous()


def to_frames(video: Tensor) -> Tensor:
    """`3 f h w` or `1 3 f h w` float in [-1, 1] -> `f 3 h w` uint8, rounded and clamped."""
    if video.ndim == 5 and video.shape[0] == 1:
        video = video[0]
    assert video.ndim == 4, tuple(video.shape)
    assert video.shape[0] == 3, tuple(video.shape)
    return levels_of(video.detach().float()).transpose(0, 1).cpu().contiguous()
