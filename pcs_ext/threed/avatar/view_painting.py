"""A surface painted view by view: each picture fills in, in the context of the earlier ones, what they did not see.

The way of TEXTure and Text2Tex (arXiv 2302.01721, 2303.11396), here by blended diffusion, which any base can do.
"""

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.blended import PutBack
from pcs_ext.image.image_to_image import encode_one_by_one, first_step
from pcs_ext.image.sample import SampleConfig, SampleHooks, build_scheduler, initial_noise, sample
from pcs_ext.threed.cameras import Cameras, Vector, orbit
from pcs_ext.threed.rasterize import project
from pcs_ext.threed.surface import SurfaceMesh
from pcs_ext.threed.surface_render import SeenSurface, look_at

_SHARPNESS = 6
"""Power of the cosine between normal and view: the view that looks straightest at a place decides its colour."""
_TOLERANCE = 0.03
"""World units behind what a view sees at which a place still counts as seen."""
_GREY = 0.7
_AMBIENT = 0.55


@config
class PaintingConfig:
    """From where a surface is painted, and how freely."""

    views: tuple[tuple[float, float], ...] = ((0.0, 5.0), (180.0, 5.0), (60.0, 10.0), (-60.0, 10.0), (120.0, 10.0),
                                              (-120.0, 10.0), (0.0, 55.0))  # fmt: skip
    """Azimuth and elevation of each picture, degrees, in their order."""
    distance: float = 5.4
    """World units."""
    fov: float = 24.0
    """Full vertical angle, degrees."""
    target: Vector = (0.0, 0.0, 1.0)
    """In the middle of the pictures."""
    strength: float = 0.9
    """Noise that a picture starts from, as a share of the schedule: below 1, the shaded body is seen through it."""
    least_facing: float = 0.35
    """Cosine to the view above which a place takes the view's colour."""
    background: float = 1.0
    """Grey around the body, in [0, 1]."""

    def __post_init__(self) -> None:
        if not self.views or not 0 < self.strength <= 1 or not 0 <= self.least_facing < 1:
            raise ConfigError(
                f"expected views, a strength in (0, 1] and least_facing in [0, 1), got {self.views}, {self.strength}, "
                f"{self.least_facing}."
            )

    def cameras(self) -> Cameras:
        """Of all pictures."""
        count = len(self.views)
        azimuth, elevation = zip(*self.views, strict=True)
        return orbit(azimuth, elevation, [self.distance] * count, [self.fov] * count, self.target)


@dataclasses.dataclass(frozen=True)
class _Picture:
    cameras: Cameras
    image: Tensor
    """`3 h w` in [0, 1]."""
    depth: Tensor
    """`h w`, infinite where nothing is, and beside outlines, whose pixels hold the background too."""


class PaintedSurface:
    """A surface and the pictures that say its colours.

    Args:
        mesh: what is painted.
        settings: how.
    """

    def __init__(self, mesh: SurfaceMesh, settings: PaintingConfig) -> None:
        self.mesh, self.settings, self.normals = mesh, settings, mesh.vertex_normals()
        self.pictures: list[_Picture] = []

    @torch.no_grad()
    def add(self, camera: Cameras, image: Tensor) -> None:
        """A picture `3 h w` in [0, 1] from one camera."""
        seen = self.look(camera, image.shape[1])
        inner = -functional.max_pool2d(-seen.covered[None, None].float(), 3, 1, 1)[0, 0] > 0
        self.pictures.append(_Picture(camera, image, torch.where(inner, seen.depth, torch.inf)))

    @torch.no_grad()
    def look(self, camera: Cameras, side: int) -> SeenSurface:
        """What one camera sees of the surface."""
        points = project(camera, 0, self.mesh.vertices, side, side)
        return look_at(self.mesh, self.normals, points, camera.positions[0], (side, side))

    @torch.no_grad()
    def colors(self, places: Tensor, normals: Tensor) -> tuple[Tensor, Tensor]:
        """Colours `n 3` at places `n 3` of the surface with outward normals `n 3`, and whether a picture says them."""
        total, summed = places.new_zeros(len(places)), places.new_zeros(len(places), 3)
        for picture in self.pictures:
            weight, color = _said(picture, places, normals, self.settings.least_facing)
            total, summed = total + weight, summed + weight[:, None] * color
        return summed / total.clamp_min(1e-9)[:, None], total > 0

    @torch.no_grad()
    def filled(self, places: Tensor, normals: Tensor) -> Tensor:
        """Colours `n 3` everywhere: what no picture shows takes the colour of the nearest vertex that one does."""
        colors, known = self.colors(places, normals)
        own, told = self.colors(self.mesh.vertices, self.normals)
        if known.all() or not told.any():
            return torch.where(known[:, None], colors, torch.full_like(colors, _GREY)) if not told.any() else colors
        sources, palette = self.mesh.vertices[told], own[told]
        missing = torch.nonzero(~known)[:, 0]
        for rows in missing.split(4096):
            colors[rows] = palette[torch.cdist(places[rows], sources).argmin(1)]
        return colors

    @torch.no_grad()
    def render(self, camera: Cameras, side: int) -> tuple[Tensor, Tensor, Tensor]:
        """A camera's view as it is painted now: picture `3 h w` in [0, 1], what is covered and what is known, `h w`.

        What is not known is grey, shaded by a light at the camera.
        """
        seen = self.look(camera, side)
        colors, known = self.colors(seen.places, seen.normals)
        toward = functional.normalize(camera.positions[0] - seen.places, dim=-1)
        shade = _AMBIENT + (1 - _AMBIENT) * (seen.normals * toward).sum(-1, keepdim=True).clamp_min(0)
        layer = torch.full((side, side, 3), self.settings.background)
        layer[seen.covered] = torch.where(known[:, None], colors, _GREY * shade)
        there = torch.zeros(side, side, dtype=torch.bool)
        there[seen.covered] = known
        return layer.permute(2, 0, 1), seen.covered, there


def _said(picture: _Picture, places: Tensor, normals: Tensor, least: float) -> tuple[Tensor, Tensor]:
    """How much a picture has to say of places, `n`, and what, `n 3`."""
    side = picture.image.shape[1]
    column, row, depth = project(picture.cameras, 0, places, side, side).unbind(-1)
    where = torch.stack([column, row], -1) / side * 2 - 1
    inside = (where.abs() < 1).all(-1)
    pixel = (row.long().clamp(0, side - 1), column.long().clamp(0, side - 1))
    visible = inside & (depth <= picture.depth[pixel] + _TOLERANCE) & torch.isfinite(picture.depth[pixel])
    toward = functional.normalize(picture.cameras.positions[0] - places, dim=-1)
    facing = (normals * toward).sum(-1)
    weight = torch.where(visible & (facing > least), facing.clamp_min(0) ** _SHARPNESS, torch.zeros_like(facing))
    color = functional.grid_sample(picture.image[None], where[None, None], align_corners=False, padding_mode="border")
    return weight, color[0, :, 0].T


@torch.no_grad()
def filled_in(
    backbone: AbstractBackbone,
    picture: Tensor,
    free: Tensor,
    prompt: str,
    *,
    seed: int,
    strength: float,
    config: SampleConfig,
    negative_prompt: str = "",
) -> Tensor:
    """A picture drawn anew where it is free, in the context of the rest: `3 h w` in [0, 1].

    Args:
        backbone: with adapters already injected.
        picture: `3 h w` in [0, 1], square, of any size; it is drawn at the base's resolution.
        free: `h w`, bool.
        prompt: with the words in place.
        seed: of the noise.
        strength: noise to start from, as a share of the schedule; what is free starts at the picture as it is.
        config: how to sample.
        negative_prompt: what to stay away from.
    """
    factor = backbone.vae_factor
    cells = functional.adaptive_max_pool2d(free[None, None].float(), backbone.resolution // factor).to(backbone.device)
    known = encode_one_by_one(backbone, _sized(picture, backbone.resolution)[None] * 2 - 1)
    scheduler = build_scheduler(backbone, config)
    first = first_step(scheduler.timesteps, strength * backbone.schedule.num_train_timesteps)
    noise = initial_noise(backbone, [seed], config).to(known)
    start = scheduler.add_noise(known, noise, scheduler.timesteps[first : first + 1])
    put_back = PutBack(backbone, known, cells, config)
    hooks = SampleHooks(initial_latents=start, first_step=first, started=put_back.started, on_step=put_back.on_step)
    negative = [negative_prompt]
    return (
        sample(backbone, [prompt], seeds=[seed], config=config, negative_prompts=negative, hooks=hooks)[0] * 0.5 + 0.5
    )


def _sized(picture: Tensor, side: int) -> Tensor:
    if picture.shape[1] == side:
        return picture
    return functional.interpolate(picture[None], (side, side), mode="bilinear", antialias=True)[0]
