"""Groups of pictures on disk, the frames of a clip or the views of a thing: rendered once, in shards, resumable."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from pcs_ext.config_io import atomic_write_bytes, atomic_write_text
from pcs_ext.errors import InputError
from pcs_ext.image.levels import levels_of
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.world.render import render_rgb
from pcs_ext.toybox.world.scene import Scene


class Groups(Protocol):
    """Pictures that belong together."""

    def pixels(self, rows: Tensor) -> Tensor:
        """Of some groups, `b members 3 h w` float in [-1, 1]."""
        ...

    def __len__(self) -> int: ...


SHARD = 100
"""Groups per shard; a set of fewer is one smaller shard."""


def missing_shards(folder: Path, count: int) -> list[int]:
    """Numbers of the shards that `count` groups still lack."""
    return [shard for shard in range(max(1, count // SHARD)) if not _said(folder, shard).exists()]


def write_shard(
    folder: Path,
    shard: int,
    groups: Sequence[Sequence[Scene]],
    records: Sequence[dict[str, Any]],
    settings: Settings,
    draw: Callable[..., Tensor] = render_rgb,
) -> None:
    """Render all pictures of all groups, by `draw`, as `render_rgb`; a record per group is kept beside them."""
    scenes = [scene for group in groups for scene in group]
    images = draw(scenes, resolution=settings.resolution, device=settings.device)
    levels = levels_of(images).cpu().numpy()
    atomic_write_bytes(folder / f"{shard:05d}.rgb", levels.tobytes())
    # The records are written last: a shard exists when they do.
    atomic_write_text(_said(folder, shard), json.dumps(list(records)))


def read_shards(folder: Path, members: int, side: int, stage: str) -> tuple[Tensor, list[dict[str, Any]]]:
    """All groups, `n members 3 side side` uint8, and their records.

    Raises:
        InputError: nothing is rendered yet.
    """
    paths = sorted(folder.glob("*.json"))
    if not paths:
        raise InputError(f"{folder} holds no rendered {stage}; run `python -m pcs_ext.toybox.train {stage}` first.")
    records = [record for path in paths for record in json.loads(path.read_text(encoding="utf-8"))]
    shape = (-1, members, 3, side, side)
    images = [np.fromfile(path.with_suffix(".rgb"), dtype=np.uint8).reshape(shape) for path in paths]
    return torch.from_numpy(np.concatenate(images)), records


def _said(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.json"
