"""Clips of moving toys on disk: rendered once, resumable."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from pcs_ext.image.levels import pixels_of
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import generator_for
from pcs_ext.toybox.train.groups import SHARD, missing_shards, read_shards, write_shard
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.train.workers import in_processes
from pcs_ext.toybox.world.captions import caption
from pcs_ext.toybox.world.motion import frames_of
from pcs_ext.toybox.world.sampling import sample_clip
from pcs_ext.toybox.world.scene import Scene

FRAMES = 8
_CAPTIONS = 3


def clips_of(stream: str, first: int, count: int, *, seed: int = 1, frames: int = FRAMES) -> list[list[Scene]]:
    """Frames of the clips `first` to `first + count` of a named stream; each starts in its motion's first half."""
    clips = []
    for index in range(first, first + count):
        generator = generator_for("toybox", stream, seed, index)
        scene = sample_clip(generator)
        clips.append(frames_of(scene, frames, start=0.5 * float(torch.rand((), generator=generator))))
    return clips


def render_clips(settings: Settings, reporter: Reporter) -> None:
    """Render a clip for every ten scenes of the settings, in shards of 100 (or one smaller one); made ones are kept."""
    count = max(1, settings.scenes // 10)
    missing = missing_shards(_folder(settings), count)
    calls = [(settings, shard, min(SHARD, count)) for shard in missing]
    in_processes(_render_shard, calls, settings.processes, lambda done: reporter.progress("clips", done, len(missing)))


def _folder(settings: Settings) -> Path:
    return settings.folder / "clips"


def _render_shard(settings: Settings, shard: int, count: int) -> None:
    clips = clips_of("clips", shard * SHARD, count, seed=settings.data_seed)
    records = []
    for index, clip in enumerate(clips):
        generator = generator_for("toybox", "captions", "clips", settings.data_seed, shard, index)
        captions = [caption(clip[0], generator) for _ in range(_CAPTIONS)]
        records.append({"captions": captions, "motion": clip[0].motion})
    write_shard(_folder(settings), shard, clips, records, settings)


@dataclasses.dataclass(frozen=True)
class ClipData:
    """All rendered clips."""

    images: Tensor
    """`n f 3 h w` uint8."""
    captions: list[list[str]]
    """Three captions per clip, which name the motion."""
    motions: list[str]
    """One of `MOTIONS` per clip."""

    def pixels(self, rows: Tensor) -> Tensor:
        """Clips of the rows, `b f 3 h w` float in [-1, 1]."""
        return pixels_of(self.images[rows])

    def __len__(self) -> int:
        return len(self.captions)


def load_clips(settings: Settings) -> ClipData:
    """Read the shards.

    Raises:
        InputError: nothing is rendered yet.
    """
    images, records = read_shards(_folder(settings), FRAMES, settings.resolution, "clips")
    return ClipData(
        images=images,
        captions=[record["captions"] for record in records],
        motions=[record["motion"] for record in records],
    )
