"""Rendered scenes on disk: rendered once, resumable.

Three streams: `data` has scenes as people ask for them, `pairs` two pictures of every toy, `moments` single frames of
moving toys: a denoiser that never read the words for motions would have to be trained anew to draw them.
"""

import dataclasses
import json
from typing import Literal, get_args

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from pcs_ext.config_io import atomic_write_bytes, atomic_write_text
from pcs_ext.errors import InputError
from pcs_ext.image.levels import levels_of, pixels_of
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import generator_for
from pcs_ext.toybox.oracle import HEADS
from pcs_ext.toybox.train.geometry import scene_maps
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.train.workers import in_processes
from pcs_ext.toybox.world.captions import caption
from pcs_ext.toybox.world.render import render_rgb
from pcs_ext.toybox.world.sampling import attributes, sample_clip, sample_scene, sample_toy
from pcs_ext.toybox.world.scene import Scene

Stream = Literal["data", "pairs", "moments"]
_SHARD = 1000
_CAPTIONS = 3
_PATTERNED = 0.6
"""Share of toys with a pattern in `pairs`: the rare attribute, shown more often than generators see it."""


def scenes_of(stream: str, first: int, count: int, *, seed: int = 1) -> list[Scene]:
    """Scenes `first` to `first + count` of a named stream ("train", "held-out"): always the same ones."""
    return [sample_scene(generator_for("toybox", stream, seed, index)) for index in range(first, first + count)]


def pairs_of(first: int, count: int, *, seed: int = 1, stream: str = "pairs") -> list[Scene]:
    """Toys `first` to `first + count` of a named stream ("pairs", "held-out pairs"): two scenes of each in turn.

    Nothing but the toy itself is alike on purpose.
    """
    scenes = []
    for index in range(first, first + count):
        generator = generator_for("toybox", stream, seed, index)
        toy = sample_toy(generator, patterned=_PATTERNED)
        other = dataclasses.replace(toy, accessory=sample_toy(generator).accessory)
        scenes += [sample_scene(generator, toy=toy), sample_scene(generator, toy=other)]
    return scenes


def moments_of(first: int, count: int, *, seed: int = 1, stream: str = "moments") -> list[Scene]:
    """Moments `first` to `first + count` of a named stream: each of a clip of its own, at a random time."""
    generators = [generator_for("toybox", stream, seed, index) for index in range(first, first + count)]
    return [sample_clip(generator).at(float(torch.rand((), generator=generator))) for generator in generators]


def render_data(settings: Settings, reporter: Reporter) -> None:
    """Render `settings.scenes` pictures per stream, of moments half as many, in shards of 1,000 (or one smaller one).

    Beside every shard lies the truth that `scene_maps` tells of its pictures.

    Shards that are there are kept.
    """
    shards = max(1, settings.scenes // _SHARD)
    wanted: list[tuple[Stream, int]] = [
        (stream, shard)
        for stream in get_args(Stream)
        for shard in range(max(1, shards // 2) if stream == "moments" else shards)
    ]
    calls = [(settings, stream, shard) for stream, shard in wanted]
    in_processes(_make_shard, calls, settings.processes, lambda done: reporter.progress("render", done, len(wanted)))


def _make_shard(settings: Settings, stream: Stream, shard: int) -> None:
    if not (settings.folder / stream / f"{shard:05d}.json").exists():
        _render_shard(settings, stream, shard)
    if not (settings.folder / stream / f"{shard:05d}.safetensors").exists():
        _tell_shard(settings, stream, shard)


def shard_scenes(settings: Settings, stream: Stream, shard: int) -> list[Scene]:
    """The scenes behind a shard's pictures."""
    count = min(_SHARD, settings.scenes)
    if stream == "pairs":
        return pairs_of(shard * _SHARD // 2, count // 2, seed=settings.data_seed)
    if stream == "moments":
        return moments_of(shard * _SHARD, count, seed=settings.data_seed)
    return scenes_of("train", shard * _SHARD, count, seed=settings.data_seed)


def _render_shard(settings: Settings, stream: Stream, shard: int) -> None:
    scenes = shard_scenes(settings, stream, shard)
    images = render_rgb(scenes, resolution=settings.resolution, device=settings.device)
    levels = levels_of(images).cpu().numpy()
    seeds = (settings.data_seed,) if stream == "data" else (stream, settings.data_seed)
    records = []
    for index, scene in enumerate(scenes):
        generator = generator_for("toybox", "captions", *seeds, shard, index)
        captions = [caption(scene, generator) for _ in range(_CAPTIONS)]
        records.append({"captions": captions, "attributes": attributes(scene), "toys": len(scene.objects)})
    folder = settings.folder / stream
    atomic_write_bytes(folder / f"{shard:05d}.rgb", levels.tobytes())
    # The captions are written last: a shard exists when they do.
    atomic_write_text(folder / f"{shard:05d}.json", json.dumps(records))


def _tell_shard(settings: Settings, stream: Stream, shard: int) -> None:
    cells = settings.resolution // settings.vae_factor
    coverage, maps = scene_maps(shard_scenes(settings, stream, shard), cells, settings.device)
    levels = {"coverage": (coverage * 255).round().to(torch.uint8), "maps": (maps * 127).round().to(torch.int8)}
    tensors = {name: level.cpu().contiguous() for name, level in levels.items()}
    atomic_write_bytes(settings.folder / stream / f"{shard:05d}.safetensors", save(tensors))


def load_truth(settings: Settings, *streams: Stream) -> tuple[Tensor, Tensor]:
    """What is seen on the pictures of `load_data`, as `scene_maps` tells it.

    Returns:
        Coverage `n h w` uint8, 255 is all; maps `n 15 h/2 w/2` int8, 127 is 1.

    Raises:
        InputError: it is not told for every picture yet.
    """
    shards = [path for stream in streams or ("data",) for path in sorted((settings.folder / stream).glob("*.json"))]
    missing = [path for path in shards if not path.with_suffix(".safetensors").exists()]
    if missing or not shards:
        raise InputError(
            f"the truth of {len(missing)} shards is missing in {settings.folder}; run `python -m "
            "pcs_ext.toybox.train data` again."
        )
    told = [load_file(path.with_suffix(".safetensors")) for path in shards]
    return torch.cat([one["coverage"] for one in told]), torch.cat([one["maps"] for one in told])


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Rendered shards of one or several streams; in `pairs`, rows 2i and 2i + 1 show the same toy."""

    images: Tensor
    """`n 3 h w` uint8."""
    captions: list[list[str]]
    """Three captions per image."""
    attributes: list[dict[str, str]]
    """The truth per image."""

    def pixels(self, rows: Tensor) -> Tensor:
        """Images of the rows, `b 3 h w` float in [-1, 1]."""
        return pixels_of(self.images[rows])

    def near(self, device: str) -> "TrainingData":
        """The same, its images on a GPU where they take at most a quarter of the memory that is free there."""
        if device == "cpu" or self.images.nbytes > torch.cuda.mem_get_info(device)[0] / 4:
            return self
        return dataclasses.replace(self, images=self.images.to(device))

    def __len__(self) -> int:
        return len(self.captions)


def load_data(settings: Settings, *streams: Stream) -> TrainingData:
    """Read the shards of the streams, one stream after the other; `data` when none is named.

    Raises:
        InputError: a stream is not rendered yet.
    """
    side, paths = settings.resolution, []
    for stream in streams or ("data",):
        folder = settings.folder / stream
        shards = sorted(folder.glob("*.json"))
        if not shards:
            raise InputError(f"{folder} holds no rendered scenes; run `python -m pcs_ext.toybox.train data` first.")
        paths += shards
    records = [record for path in paths for record in json.loads(path.read_text(encoding="utf-8"))]
    images = [np.fromfile(path.with_suffix(".rgb"), dtype=np.uint8).reshape(-1, 3, side, side) for path in paths]
    return TrainingData(
        images=torch.from_numpy(np.concatenate(images)),
        captions=[record["captions"] for record in records],
        attributes=[record["attributes"] for record in records],
    )


def labels_of(data: TrainingData) -> dict[str, Tensor]:
    """Number of every picture's value per attribute, `n` int64."""
    return {
        name: torch.tensor([values.index(truth[name]) for truth in data.attributes]) for name, values in HEADS.items()
    }


def single_rows(data: TrainingData) -> Tensor:
    """Rows of pictures of one toy: those of two have ambiguous attributes."""
    return torch.tensor([row for row, captions in enumerate(data.captions) if " and a " not in captions[0]])
