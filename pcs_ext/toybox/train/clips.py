"""Clips of moving toys on disk: rendered once, resumable."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pcs_ext.config_io import atomic_write_bytes, atomic_write_text
from pcs_ext.errors import InputError
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import generator_for
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.world.captions import caption
from pcs_ext.toybox.world.motion import frames_of
from pcs_ext.toybox.world.render import render_rgb
from pcs_ext.toybox.world.sampling import sample_clip
from pcs_ext.toybox.world.scene import Scene

FRAMES = 8
_SHARD = 100
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
    shards = range(max(1, count // _SHARD))
    missing = [shard for shard in shards if not (_folder(settings) / f"{shard:05d}.json").exists()]
    for done, shard in enumerate(missing):
        _render_shard(settings, shard, min(_SHARD, count))
        reporter.progress("clips", done + 1, len(missing))


def _folder(settings: Settings) -> Path:
    return settings.folder / "clips"


def _render_shard(settings: Settings, shard: int, count: int) -> None:
    clips = clips_of("clips", shard * _SHARD, count, seed=settings.data_seed)
    images = render_rgb(
        [frame for clip in clips for frame in clip], resolution=settings.resolution, device=settings.device
    )
    levels = ((images + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
    records = []
    for index, clip in enumerate(clips):
        generator = generator_for("toybox", "captions", "clips", settings.data_seed, shard, index)
        captions = [caption(clip[0], generator) for _ in range(_CAPTIONS)]
        records.append({"captions": captions, "motion": clip[0].motion})
    atomic_write_bytes(_folder(settings) / f"{shard:05d}.rgb", levels.tobytes())
    # The captions are written last: a shard exists when they do.
    atomic_write_text(_folder(settings) / f"{shard:05d}.json", json.dumps(records))


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
        return self.images[rows].float() / 127.5 - 1

    def __len__(self) -> int:
        return len(self.captions)


def load_clips(settings: Settings) -> ClipData:
    """Read the shards.

    Raises:
        InputError: nothing is rendered yet.
    """
    folder, side = _folder(settings), settings.resolution
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise InputError(f"{folder} holds no rendered clips; run `python -m pcs_ext.toybox.train clips` first.")
    records = [record for path in paths for record in json.loads(path.read_text(encoding="utf-8"))]
    images = [
        np.fromfile(path.with_suffix(".rgb"), dtype=np.uint8).reshape(-1, FRAMES, 3, side, side) for path in paths
    ]
    return ClipData(
        images=torch.from_numpy(np.concatenate(images)),
        captions=[record["captions"] for record in records],
        motions=[record["motion"] for record in records],
    )
