"""Scenes to pictures and to the truth behind them."""

import dataclasses
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pcs_ext.errors import ConfigError
from pcs_ext.toybox.world.assembly import Assembly, assemble
from pcs_ext.toybox.world.backgrounds import CONTEXT_PARTS, FAR, TINT, ground, sky
from pcs_ext.toybox.world.camera import EQUIRECTANGULAR, camera_table, rays
from pcs_ext.toybox.world.cast import Frame, Hits, cast
from pcs_ext.toybox.world.motion import posed
from pcs_ext.toybox.world.scene import Scene
from pcs_ext.toybox.world.shading import shade, shadowed
from pcs_ext.toybox.world.styles import stylize

_CHUNK_RAYS = {"cpu": 400_000, "cuda": 4_000_000}
"""That are cast at once: what fits a CPU's caches, and what keeps a GPU busy."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
    """What every pixel of `b` scenes shows, taken at pixel centres."""

    mask: Tensor
    """`b h w` bool: a toy is at the pixel's centre."""
    depth: Tensor
    """`b h w`: along the optical axis (distance for equirectangular pictures), toy units; infinite in the sky."""
    normals: Tensor
    """`b 3 h w`: unit, world axes, towards the camera; 0 where no toy is."""
    object_coordinates: Tensor
    """`b 3 h w`: the point in its toy's own frame; 0 where no toy is."""
    part_ids: Tensor
    """`b h w` int64: index in `part_names(toy)`, -1 where no toy is."""
    object_ids: Tensor
    """`b h w` int64: index in `scene.objects`, -1 where no toy is."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rendered(Geometry):
    """Pictures of `b` scenes and the truth behind them."""

    rgb: Tensor
    """`b 3 h w` in [-1, 1], anti-aliased, styled."""
    coverage: Tensor
    """`b h w` in [0, 1]: share of the pixel that toys cover."""


def render(
    scenes: Sequence[Scene], *, resolution: int = 64, supersample: int = 2, device: str = "cpu", styled: bool = True
) -> Rendered:
    """Pictures and truth. A scene's pixels do not depend on what else is in the batch.

    Args:
        scenes: of one projection; motions are applied at each scene's time.
        resolution: height in pixels; equirectangular pictures are twice as wide.
        supersample: samples per pixel and side for `rgb` and `coverage`.
        device: where to compute and keep the result.
        styled: apply the scenes' styles.

    Raises:
        ConfigError: no scene, or mixed projections.
    """
    stills = [posed(scene) for scene in scenes]
    rgb, coverage = _pictures(stills, resolution, supersample, torch.device(device), styled)
    parts, frame = _geometry(stills, resolution, torch.device(device))
    truth = _truth(parts, frame, cast(parts, frame), len(stills))
    return Rendered(rgb=rgb, coverage=coverage, **truth)


def render_rgb(
    scenes: Sequence[Scene], *, resolution: int = 64, supersample: int = 2, device: str = "cpu", styled: bool = True
) -> Tensor:
    """Only `Rendered.rgb`: what training needs, at a third less cost."""
    return _pictures([posed(scene) for scene in scenes], resolution, supersample, torch.device(device), styled)[0]


def render_geometry(scenes: Sequence[Scene], *, resolution: int = 64, device: str = "cpu") -> Geometry:
    """Only the truth, at a fraction of the cost; arguments and errors as in `render`."""
    stills = [posed(scene) for scene in scenes]
    per_chunk = _per_chunk(resolution, device)
    pieces = []
    for first in range(0, len(stills), per_chunk):
        chunk = stills[first : first + per_chunk]
        parts, frame = _geometry(chunk, resolution, torch.device(device))
        pieces.append(_truth(parts, frame, cast(parts, frame), len(chunk)))
    return Geometry(**{name: torch.cat([piece[name] for piece in pieces]) for name in pieces[0]})


def _pictures(
    scenes: list[Scene], resolution: int, supersample: int, device: torch.device, styled: bool
) -> tuple[Tensor, Tensor]:
    per_chunk = _per_chunk(resolution * supersample, device)
    chunks = [scenes[i : i + per_chunk] for i in range(0, len(scenes), per_chunk)]
    pieces = [_picture(chunk, resolution, supersample, device, styled) for chunk in chunks]
    return torch.cat([rgb for rgb, _ in pieces]), torch.cat([coverage for _, coverage in pieces])


def _per_chunk(resolution: int, device: str | torch.device) -> int:
    rays = _CHUNK_RAYS.get(torch.device(device).type, _CHUNK_RAYS["cpu"])
    return max(1, rays // resolution**2)


def _picture(
    scenes: list[Scene], resolution: int, supersample: int, device: torch.device, styled: bool
) -> tuple[Tensor, Tensor]:
    parts, frame = _geometry(scenes, resolution * supersample, device)
    hits = cast(parts, frame)
    lights = _lights(scenes, device)
    color = _background(scenes, parts, frame, lights, hits.ray)
    color[hits.ray] = shade(parts, hits, frame, lights)
    image = color.view(len(scenes), frame.height, frame.width, 3).permute(0, 3, 1, 2)
    image = (image * _tints(scenes, device)).clamp(0, 1)
    covered = torch.zeros(frame.table.shape[0] * frame.pixels, device=device)
    covered[hits.ray] = 1
    covered = covered.view(len(scenes), 1, frame.height, frame.width)
    image = torch.nn.functional.avg_pool2d(image, supersample)
    coverage = torch.nn.functional.avg_pool2d(covered, supersample)[:, 0]
    if styled:
        image = _by_value([scene.style for scene in scenes], image, stylize)
    return image.clamp(0, 1) * 2 - 1, coverage


def _geometry(scenes: list[Scene], height: int, device: torch.device) -> tuple[Assembly, Frame]:
    kinds = {scene.camera.projection for scene in scenes}
    if len(kinds) != 1:
        raise ConfigError(
            f"a batch needs at least one scene and one projection for all, got {sorted(kinds) or 'no scene'}."
        )
    equirectangular = kinds == {EQUIRECTANGULAR}
    width = 2 * height if equirectangular else height
    table = camera_table([scene.camera for scene in scenes], device)
    directions = rays(table, height, width, equirectangular)
    x, y, z = (component.reshape(-1) for component in directions)
    frame = Frame(table=table, height=height, width=width, equirectangular=equirectangular, directions=(x, y, z))
    return assemble(scenes, device), frame


def _lights(scenes: list[Scene], device: torch.device) -> Tensor:
    rows = []
    for scene in scenes:
        azimuth, elevation = (math.radians(angle) for angle in scene.light)
        flat = math.cos(elevation)
        rows.append([math.sin(azimuth) * flat, -math.cos(azimuth) * flat, math.sin(elevation)])
    return torch.tensor(rows, device=device)


def _tints(scenes: list[Scene], device: torch.device) -> Tensor:
    return torch.tensor([TINT.get(scene.context, (1.0, 1.0, 1.0)) for scene in scenes], device=device)[:, :, None, None]


def _background(scenes: list[Scene], parts: Assembly, frame: Frame, lights: Tensor, hit_rays: Tensor) -> Tensor:
    """Ground with shadows, faded into the sky; `rays 3`. Rays that meet a toy are left black."""
    dx, dy, dz = frame.directions
    open_ray = torch.ones(len(dx), dtype=torch.bool, device=dx.device)
    open_ray[hit_rays] = False
    scene = torch.arange(len(scenes), device=dx.device).repeat_interleave(frame.pixels)
    eye = frame.table[:, 3, :3]
    distance = torch.where(dz < -1e-4, -eye[:, 2][scene] / dz, torch.inf)
    on_ground = open_ray & (distance < FAR) & (distance > 0)
    distance = torch.where(on_ground, distance, 0)
    x, y = eye[:, 0][scene] + distance * dx, eye[:, 1][scene] + distance * dy
    dark = shadowed(parts, frame, lights, on_ground, x, y)
    color = torch.zeros(len(dx), 3, device=dx.device)
    phases = torch.tensor([s.background_seed for s in scenes], device=dx.device)[scene]
    for context in sorted({s.context for s in scenes}):
        here = torch.tensor([s.context == context for s in scenes], device=dx.device)[scene]
        ground_kind, sky_kind = CONTEXT_PARTS[context]
        i = torch.nonzero(here & open_ray)[:, 0]
        color[i] = sky(sky_kind, (dx[i], dy[i], dz[i]), phases[i])
        g = torch.nonzero(here & on_ground)[:, 0]
        surface = ground(ground_kind, x[g], y[g], phases[g]) * torch.where(dark[g], 0.6, 1.0)[:, None]
        fade = 0.0 if ground_kind == "plain" else ((distance[g] - 8) / 25).clamp(0, 1)[:, None]
        color[g] = surface * (1 - fade) + color[g] * fade
    return color


def _by_value(values: list[str], images: Tensor, function: Callable[[Tensor, str], Tensor]) -> Tensor:
    """Apply `function(images of a value, value)` to the images that share a value."""
    result = torch.empty_like(images)
    for value in sorted(set(values)):
        rows = [index for index, other in enumerate(values) if other == value]
        result[rows] = function(images[rows], value)
    return result


def _truth(parts: Assembly, frame: Frame, hits: Hits, count: int) -> dict[str, Tensor]:
    device, total = hits.ray.device, count * frame.pixels
    d = torch.stack(frame.directions, 1)
    scene = torch.arange(count, device=device).repeat_interleave(frame.pixels)
    along = torch.ones(total, device=device) if frame.equirectangular else (d * frame.table[scene, 2, :3]).sum(1)
    to_ground = torch.where(d[:, 2] < -1e-4, -frame.table[scene, 3, 2] / d[:, 2], torch.inf)
    distance = torch.where(to_ground > 0, to_ground, torch.inf)
    distance[hits.ray] = hits.distance
    normals, points = torch.zeros(total, 3, device=device), torch.zeros(total, 3, device=device)
    normals[hits.ray] = torch.stack(hits.normal, 1)
    to_object = parts.to_object[hits.part]
    local = torch.stack(hits.local, 1)
    points[hits.ray] = (to_object[:, :, :3] * local[:, None]).sum(-1) + to_object[:, :, 3]
    part_ids = torch.full((total,), -1, dtype=torch.int64, device=device)
    object_ids = part_ids.clone()
    part_ids[hits.ray], object_ids[hits.ray] = parts.index[hits.part], parts.object[hits.part]
    size = (count, frame.height, frame.width)
    return {
        "depth": (distance * along).view(size),
        "normals": normals.view(*size, 3).permute(0, 3, 1, 2).contiguous(),
        "object_coordinates": points.view(*size, 3).permute(0, 3, 1, 2).contiguous(),
        "mask": (part_ids >= 0).view(size),
        "part_ids": part_ids.view(size),
        "object_ids": object_ids.view(size),
    }
