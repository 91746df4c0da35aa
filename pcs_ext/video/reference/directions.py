"""What a clip is told beside words and photos: how it moves, what is done in it, and how its frames are laid out."""

import dataclasses
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.errors import InputError, UsageError
from pcs_ext.video.clips import read_clip
from pcs_ext.video.clips.clip import to_video

MOST_INTENSITY = 20.0
"""Of motion, in pixels per frame of pictures 512 pixels wide; what is faster counts as this (MotionCharacter's)."""
Structure = Literal["edges", "depth", "pose"]
"""What maps of frames show. Edges are found in any clip; maps of depth or pose must be made elsewhere."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Directions:
    """Of a batch of `b` clips; None where nobody says so."""

    intensity: Tensor | None = None
    """`b` in [0, `MOST_INTENSITY`]: how far what moves goes from frame to frame."""
    actions: tuple[str, ...] | None = None
    """`b` phrases for what is done."""
    maps: Tensor | None = None
    """`b 3 f h w` in [-1, 1], pixels of a map for every frame."""
    coarseness: Tensor | None = None
    """`b`: how many times maps lose half of their detail."""
    temporal_guidance: float | None = None
    """How far predictions are drawn away from those of the frames one by one, 1 being not at all."""
    speed: Tensor | None = None
    """`b f h w`, in training: how far what is in each latent cell goes, in the unit of `intensity`."""
    cover: Tensor | None = None
    """`b f h w` in [0, 1], in training: how much of each latent cell the subject covers."""

    def frame(self, number: int) -> "Directions":
        """Of one frame of each clip: it stands still."""
        still = None if self.intensity is None else torch.zeros_like(self.intensity)
        one = slice(number, number + 1)
        maps = None if self.maps is None else self.maps[:, :, one]
        cover = None if self.cover is None else self.cover[:, one]
        return dataclasses.replace(self, intensity=still, maps=maps, speed=None, cover=cover)


def intensity_of(speed: Tensor, still: float = 1.0) -> Tensor:
    """Mean speed of what moves, `b f h w` -> `b` in [0, `MOST_INTENSITY`]; 0 where nothing does.

    MotionCharacter (arXiv 2411.18281) takes the mean of optical flow over a foreground; here that is what moves faster
    than `still`.
    """
    moving = (speed > still).to(speed)
    mean = (speed * moving).flatten(1).sum(1) / moving.flatten(1).sum(1).clamp_min(1)
    return mean.clamp(0, MOST_INTENSITY)


def edges_of(video: Tensor) -> Tensor:
    """How steep brightness is: clips `3 f h w` in [-1, 1] -> maps alike, -1 flat, 1 where it rises by half of its range
    or more from pixel to pixel (Sobel's operator). It needs no weights."""
    gray = F.pad(video.float().mean(0)[:, None] / 2, [1] * 4, mode="replicate")
    across = torch.tensor([[-1.0, 0.0, 1.0], [-2.0, 0.0, 2.0], [-1.0, 0.0, 1.0]]).to(gray) / 8
    steep = F.conv2d(gray, torch.stack([across, across.T])[:, None]).norm(dim=1)
    return (4 * steep.clamp(max=0.5) - 1)[None].expand(3, -1, -1, -1)


def coarser(maps: Tensor, times: int) -> Tensor:
    """Maps `b 3 f h w` that lost half of their detail so many times, of the same size: means of squares, enlarged.

    Gen-1 (arXiv 2302.03011, section 3.3) blurs and shrinks its depth maps so; its kernel is not known here.
    """
    if times == 0:
        return maps
    frames, size = maps.transpose(1, 2).flatten(0, 1), maps.shape[-2:]
    small = frames
    for _ in range(times):
        if min(small.shape[-2:]) > 1:
            small = F.avg_pool2d(small, 2, ceil_mode=True, count_include_pad=False)
    large = F.interpolate(small, size=size, mode="bilinear", align_corners=False)
    return large.unflatten(0, (len(maps), -1)).transpose(1, 2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskedDirections:
    """What `video make` is told for clips beside photos."""

    action: str = ""
    """A phrase for what is done; empty: the prompt."""
    intensity: float | None = None
    """See `Directions`; None: the adapter's usual."""
    structure: Path | None = None
    """A clip of maps, or one whose edges are taken."""
    coarseness: int | None = None
    """See `Directions`; None: 0."""
    temporal_guidance: float | None = None
    """See `Directions`; None: 1."""

    def check(self, has_photos: bool) -> None:
        """What can be said before anything is loaded.

        Raises:
            UsageError: out of range, or nobody there to be told.
            InputError: there is no such clip.
        """
        given = {"--action": self.action, "--intensity": self.intensity is not None,
                 "--structure": self.structure, "--coarseness": self.coarseness is not None,
                 "--temporal-guidance": self.temporal_guidance is not None}  # fmt: skip
        without = [name for name, value in given.items() if value]
        if without and not has_photos:
            raise UsageError(f"{' and '.join(without)} go with a photo and its adapter; pass one with --reference.")
        if self.intensity is not None and not 0 <= self.intensity <= MOST_INTENSITY:
            raise UsageError(f"--intensity must be from 0, still, to {MOST_INTENSITY:g}, got {self.intensity:g}.")
        if self.coarseness is not None and not 0 <= self.coarseness <= 7:
            raise UsageError(f"--coarseness must be 0 to 7 halvings of the maps' detail, got {self.coarseness}.")

        if self.structure is not None and not self.structure.exists():
            raise InputError(f"{self.structure} does not exist; expected a clip after --structure.")
        if self.temporal_guidance is not None and not 0 <= self.temporal_guidance < float("inf"):
            raise UsageError(f"--temporal-guidance must be 0 or more, got {self.temporal_guidance}; 1 is none.")

    def fitting(self, moves: bool, structure: Structure | None, *, steadies: bool = False) -> None:
        """See that an adapter can be told so.

        Args:
            moves: whether it is told actions and intensities.
            structure: what maps it reads; None: none.
            steadies: whether it knows frames one by one and how coarse maps are.

        Raises:
            UsageError: it is told what it does not read, or not told what it cannot be without.
        """
        if (self.action or self.intensity is not None) and not moves:
            raise UsageError("this adapter is not told how clips move; leave out --action and --intensity.")
        if self.structure is not None and structure is None:
            raise UsageError("this adapter reads no maps of frames; leave out --structure.")
        if (self.coarseness is not None or self.temporal_guidance is not None) and not steadies:
            raise UsageError("--coarseness and --temporal-guidance are for adapters of gen-1; leave them out.")
        if structure is not None and self.structure is None:
            what = "any clip, whose edges are taken" if structure == "edges" else f"a clip of {structure} maps"
            raise UsageError(f"this adapter draws clips over maps of their frames; pass {what}, with --structure.")

    def read_maps(self, structure: Structure, size: tuple[int, int], frames: int) -> Tensor:
        """Maps `1 3 f h w` of height and width in pixels.

        Raises:
            InputError: the clip cannot be read.
        """
        assert self.structure is not None, "checked before"
        video = to_video(read_clip(self.structure, frames=frames, size=size).frames)
        return (edges_of(video) if structure == "edges" else video)[None]
