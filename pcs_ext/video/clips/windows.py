"""Training windows: a few consecutive frames at a stride, from one clip or several."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.errors import InputError, UsageError
from pcs_ext.video.clips.clip import Clip, to_video


@dataclasses.dataclass(frozen=True)
class ClipBatch:
    """Windows drawn for one step."""

    videos: Tensor
    """`b 3 f h w` float32 in [-1, 1]."""
    clips: tuple[int, ...]
    """Which clip each window is from."""
    starts: tuple[int, ...]
    """First frame of each window in its clip."""
    keys: tuple[str, ...]
    """Equal keys mean equal pixels: `clip/start`, for caches of latents."""


class ClipDataset:
    """Windows of `frames` frames, `stride` apart, of clips of one size (Tune-A-Video: 24 frames at stride 2).

    Args:
        clips: decoded clips.
        frames: length of a window.
        stride: distance of its frames in the clip.

    Raises:
        UsageError: no clips, or a number below 1.
        InputError: a clip is too short for one window, or of another size than the first.
    """

    def __init__(self, clips: Sequence[Clip], *, frames: int, stride: int = 1) -> None:
        if not clips or frames < 1 or stride < 1:
            raise UsageError(
                f"got {len(clips)} clips, frames={frames}, stride={stride}; expected at least one of each."
            )
        self.clips, self.frames, self.stride = list(clips), frames, stride
        self.span = (frames - 1) * stride + 1
        for number, clip in enumerate(self.clips):
            self._check(clip, clip.path or f"clip {number}")

    def _check(self, clip: Clip, name: object) -> None:
        if len(clip) < self.span:
            raise InputError(
                f"{name} holds {len(clip)} frames; expected at least {self.span} (frames={self.frames}, "
                f"stride={self.stride}). Ask for fewer frames or a smaller stride, or give a longer clip."
            )
        if clip.size != self.clips[0].size:
            raise InputError(
                f"{name} has {clip.size} pixels, the first clip {self.clips[0].size}; read all at one size."
            )

    def windows(self) -> list[tuple[int, int]]:
        """(clip, first frame) of every window."""
        return [(i, start) for i, clip in enumerate(self.clips) for start in range(len(clip) - self.span + 1)]

    def window(self, clip: int, start: int) -> Tensor:
        """`3 f h w` float32 in [-1, 1]."""
        return to_video(self.clips[clip].frames[start : start + self.span : self.stride])

    def batch(self, size: int, generator: torch.Generator) -> ClipBatch:
        """`size` windows: clips in random order without repeats while there are enough, starts uniform in each.

        Every clip counts the same, however long it is; all randomness is from `generator`.
        """
        order: list[int] = []
        while len(order) < size:
            order += torch.randperm(len(self.clips), generator=generator).tolist()
        chosen = tuple(order[:size])
        rooms = [len(self.clips[clip]) - self.span + 1 for clip in chosen]
        starts = tuple(int(torch.randint(room, (), generator=generator)) for room in rooms)
        pairs = list(zip(chosen, starts, strict=True))
        videos = torch.stack([self.window(clip, start) for clip, start in pairs])
        return ClipBatch(videos, chosen, starts, tuple(f"{clip}/{start}" for clip, start in pairs))
