"""Toys over white from random sides on disk, some of each: what a view model learns from. Rendered once, resumable."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pcs_ext.image.levels import pixels_of
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import generator_for
from pcs_ext.threed.cameras import Cameras
from pcs_ext.toybox.train.groups import SHARD, missing_shards, read_shards, write_shard
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.train.views import cameras_of
from pcs_ext.toybox.world.render import render
from pcs_ext.toybox.world.sampling import frame, sample_scene
from pcs_ext.toybox.world.scene import Camera, Scene
from pcs_ext.toybox.world.vocabulary import CONTEXTS, STYLES

SIDES = 6
"""Views of a toy."""
_PER_TOY = 8
"""Scenes of the settings for every toy."""
_FILL = 0.72
"""Of a view's height: as photos that 3D scenes are made of should be framed."""
_ELEVATION = (0.0, 45.0)


def toys(stream: str, first: int, count: int, *, seed: int = 1) -> list[list[Scene]]:
    """Toys `first` to `first + count` of a named stream ("photo views", "held-out photo views"), in one light each.

    They face where they always do, so azimuth 0 is their front.
    """
    return [_a_toy(generator_for("toybox", stream, seed, index)) for index in range(first, first + count)]


def _a_toy(generator: torch.Generator) -> list[Scene]:
    scene = sample_scene(generator, two_objects=0.0, style=STYLES[0], context=CONTEXTS[-1])
    drawn = torch.rand(SIDES, 2, generator=generator).tolist()
    low, high = _ELEVATION
    return [
        dataclasses.replace(
            scene, camera=frame(scene.objects, 180 - 360 * turn, low + (high - low) * height, fill=_FILL)
        )
        for turn, height in drawn
    ]


def over_white(scenes: Sequence[Scene], *, resolution: int, device: str) -> Tensor:
    """Pictures `b 3 h w` in [-1, 1] of toys alone."""
    seen = render(scenes, resolution=resolution, device=device)
    cover = seen.coverage[:, None]
    return seen.rgb * cover + (1 - cover)


def render_photo_views(settings: Settings, reporter: Reporter) -> None:
    """Render a toy for every eight scenes of the settings, in shards of 100 or one smaller one; made ones are kept."""
    count = max(1, settings.scenes // _PER_TOY)
    missing = missing_shards(_folder(settings), count)
    for done, shard in enumerate(missing):
        groups = toys("photo views", shard * SHARD, min(SHARD, count), seed=settings.data_seed)
        records = [{"cameras": [dataclasses.asdict(scene.camera) for scene in views]} for views in groups]
        write_shard(_folder(settings), shard, groups, records, settings, over_white)
        reporter.progress("photo views", done + 1, len(missing))


def _folder(settings: Settings) -> Path:
    return settings.folder / "photo_views"


@dataclasses.dataclass(frozen=True)
class PhotoViews:
    """All rendered toys."""

    images: Tensor
    """`n v 3 h w` uint8."""
    cameras: Cameras
    """`n * v`, the views of a toy in a row; about (0, 0, 0)."""

    def pixels(self, rows: Tensor) -> Tensor:
        """Toys of the rows, `b v 3 h w` float in [-1, 1]."""
        return pixels_of(self.images[rows])

    def __len__(self) -> int:
        return len(self.images)


def load_photo_views(settings: Settings) -> PhotoViews:
    """Read the shards.

    Raises:
        InputError: nothing is rendered yet.
    """
    images, records = read_shards(_folder(settings), SIDES, settings.resolution, "photo_views")
    return PhotoViews(images, cameras_of([Camera(**camera) for record in records for camera in record["cameras"]]))
