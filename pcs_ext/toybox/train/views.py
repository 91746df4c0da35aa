"""Sets of four views of a toy, 90 degrees apart, on disk: rendered once, resumable."""

import dataclasses
from pathlib import Path

import torch
from torch import Tensor

from pcs_ext.image.levels import pixels_of
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import generator_for
from pcs_ext.threed.cameras import Cameras, orbit
from pcs_ext.toybox.train.geometry import scene_maps
from pcs_ext.toybox.train.groups import SHARD, missing_shards, read_shards, write_shard
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.world.captions import caption
from pcs_ext.toybox.world.sampling import frame, sample_scene
from pcs_ext.toybox.world.scene import Camera, Scene
from pcs_ext.toybox.world.vocabulary import CONTEXTS, STYLES

VIEWS = 4
_CAPTIONS = 3
_PER_SET = 8
"""Scenes of the settings for every set."""
_PHOTOS, _PLAIN = 0.8, 0.5
"""Shares of sets that are photos, and of those that stand before a plain background, as rendered fields do."""
_FILL = (0.62, 0.94)
"""Of a view's height: fields are seen from a little farther away than the toys of stills."""


def sets_of(stream: str, first: int, count: int, *, seed: int = 1) -> list[list[Scene]]:
    """Sets `first` to `first + count` of a named stream ("views", "held-out views"): one toy, one light, one height.

    The toys face where they always do, so azimuth 0 is their front.
    """
    return [_a_set(generator_for("toybox", stream, seed, index)) for index in range(first, first + count)]


def _a_set(generator: torch.Generator) -> list[Scene]:
    share, plain, turn, height, fill = torch.rand(5, generator=generator).tolist()
    scene = sample_scene(
        generator,
        two_objects=0.0,
        style=STYLES[0] if share < _PHOTOS else None,
        context=CONTEXTS[-1] if plain < _PLAIN else None,
    )
    elevation, filled = 2 + 28 * height, _FILL[0] + (_FILL[1] - _FILL[0]) * fill
    azimuths = [_wrapped(360 * turn + 90 * view) for view in range(VIEWS)]
    return [
        dataclasses.replace(scene, camera=frame(scene.objects, azimuth, elevation, fill=filled)) for azimuth in azimuths
    ]


def _wrapped(angle: float) -> float:
    return 180 - (180 - angle) % 360


def render_views(settings: Settings, reporter: Reporter) -> None:
    """Render a set for every eight scenes of the settings, in shards of 100 or one smaller one; made ones are kept."""
    count = max(1, settings.scenes // _PER_SET)
    missing = missing_shards(_folder(settings), count)
    for done, shard in enumerate(missing):
        _render_shard(settings, shard, min(SHARD, count))
        reporter.progress("views", done + 1, len(missing))


def _folder(settings: Settings) -> Path:
    return settings.folder / "views"


def _render_shard(settings: Settings, shard: int, count: int) -> None:
    sets = sets_of("views", shard * SHARD, count, seed=settings.data_seed)
    cells = settings.resolution // settings.vae_factor
    records = []
    for index, views in enumerate(sets):
        generator = generator_for("toybox", "captions", "views", settings.data_seed, shard, index)
        captions = [caption(views[0], generator, view=False) for _ in range(_CAPTIONS)]
        cameras = [dataclasses.asdict(scene.camera) for scene in views]
        coverage = scene_maps(views, cells, settings.device)[0]
        records.append({"captions": captions, "cameras": cameras, "coverage": (coverage * 255).round().int().tolist()})
    write_shard(_folder(settings), shard, sets, records, settings)


@dataclasses.dataclass(frozen=True)
class ViewData:
    """All rendered sets."""

    images: Tensor
    """`n v 3 h w` uint8."""
    captions: list[list[str]]
    """Three captions per set, which name no view."""
    cameras: Cameras
    """`n * v`, the views of a set in a row."""
    coverage: Tensor
    """`n v h w` uint8: the share of every latent cell that the toy covers, 255 is all."""

    def pixels(self, rows: Tensor) -> Tensor:
        """Sets of the rows, `b v 3 h w` float in [-1, 1]."""
        return pixels_of(self.images[rows])

    def cameras_of(self, rows: Tensor) -> Cameras:
        """Cameras of the sets of the rows, `b * v`."""
        return self.cameras[(VIEWS * rows[:, None] + torch.arange(VIEWS)).flatten()]

    def __len__(self) -> int:
        return len(self.captions)


def load_views(settings: Settings) -> ViewData:
    """Read the shards.

    Raises:
        InputError: nothing is rendered yet.
    """
    images, records = read_shards(_folder(settings), VIEWS, settings.resolution, "views")
    return ViewData(
        images=images,
        captions=[record["captions"] for record in records],
        cameras=cameras_of([Camera(**camera) for record in records for camera in record["cameras"]]),
        coverage=torch.tensor([record["coverage"] for record in records], dtype=torch.uint8),
    )


def cameras_of(cameras: list[Camera]) -> Cameras:
    """The world's cameras as those of 3D guidance; targets are left out, which the multi-view adapter does not read."""
    return orbit(
        azimuth=[camera.azimuth for camera in cameras],
        elevation=[camera.elevation for camera in cameras],
        distance=[camera.distance for camera in cameras],
        fov=[camera.fov for camera in cameras],
    )
