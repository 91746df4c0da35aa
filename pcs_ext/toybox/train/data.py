"""Rendered scenes on disk: rendered once, resumable, read through memory maps."""

import dataclasses
import json

import numpy as np
import torch
from torch import Tensor

from pcs_ext.config_io import atomic_write_bytes, atomic_write_text
from pcs_ext.errors import InputError
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import generator_for
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.world.captions import caption
from pcs_ext.toybox.world.render import render_rgb
from pcs_ext.toybox.world.sampling import attributes, sample_scene
from pcs_ext.toybox.world.scene import Scene

_SHARD = 1000
_CAPTIONS = 3


def scenes_of(stream: str, first: int, count: int, *, seed: int = 1) -> list[Scene]:
    """Scenes `first` to `first + count` of a named stream ("train", "held-out"): always the same ones."""
    return [sample_scene(generator_for("toybox", stream, seed, index)) for index in range(first, first + count)]


def render_data(settings: Settings, reporter: Reporter) -> None:
    """Render the training scenes into shards of 1,000 (or one smaller one); shards that are there are kept."""
    folder = settings.folder / "data"
    shards = max(1, settings.scenes // _SHARD)
    for shard in range(shards):
        if not (folder / f"{shard:05d}.json").exists():
            _render_shard(settings, shard)
        reporter.progress("render", shard + 1, shards)


def _render_shard(settings: Settings, shard: int) -> None:
    scenes = scenes_of("train", shard * _SHARD, min(_SHARD, settings.scenes), seed=settings.data_seed)
    images = render_rgb(scenes, resolution=settings.resolution, device=settings.device)
    levels = ((images + 1) * 127.5).round().to(torch.uint8).cpu().numpy()
    records = []
    for index, scene in enumerate(scenes):
        generator = generator_for("toybox", "captions", settings.data_seed, shard, index)
        captions = [caption(scene, generator) for _ in range(_CAPTIONS)]
        records.append({"captions": captions, "attributes": attributes(scene), "toys": len(scene.objects)})
    folder = settings.folder / "data"
    atomic_write_bytes(folder / f"{shard:05d}.rgb", levels.tobytes())
    # The captions are written last: a shard exists when they do.
    atomic_write_text(folder / f"{shard:05d}.json", json.dumps(records))


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """All rendered shards."""

    images: Tensor
    """`n 3 h w` uint8."""
    captions: list[list[str]]
    """Three captions per image."""
    attributes: list[dict[str, str]]
    """The truth per image."""

    def pixels(self, rows: Tensor) -> Tensor:
        """Images of the rows, `b 3 h w` float in [-1, 1]."""
        return self.images[rows].float() / 127.5 - 1

    def __len__(self) -> int:
        return len(self.captions)


def load_data(settings: Settings) -> TrainingData:
    """Read the shards.

    Raises:
        InputError: nothing is rendered yet.
    """
    folder, side = settings.folder / "data", settings.resolution
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise InputError(f"{folder} holds no rendered scenes; run `python -m pcs_ext.toybox.train data` first.")
    records = [record for path in paths for record in json.loads(path.read_text(encoding="utf-8"))]
    images = [np.fromfile(path.with_suffix(".rgb"), dtype=np.uint8).reshape(-1, 3, side, side) for path in paths]
    return TrainingData(
        images=torch.from_numpy(np.concatenate(images)),
        captions=[record["captions"] for record in records],
        attributes=[record["attributes"] for record in records],
    )
