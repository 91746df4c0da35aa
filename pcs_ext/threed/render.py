"""Volume rendering by quadrature: rays through a field become colours, opacity, depth and normals."""

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.threed.cameras import Cameras, Rays, rays
from pcs_ext.threed.fields import AbstractField, Along, Bounds
from pcs_ext.threed.occupancy import Occupancy

Shading = Literal["albedo", "lambertian", "textureless", "normals"]
_CHUNK_RAYS = 8192


@config
class RenderConfig:
    """How rays are summed up."""

    samples: int = 96
    """Intervals per ray between where it enters and leaves the cube."""
    shading: Shading = "albedo"
    """albedo: the field's colour; lambertian: lit from one point; textureless: lit white (DreamFusion, sec. 3.1);
    normals: directions as colours."""
    ambient: float = 0.1
    """Share of light that comes from everywhere, in [0, 1]; the rest comes from the light's place."""
    normals: bool = False
    """Compute normals for albedo shading too; costs six more density lookups per sample."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderedRays:
    """`n` rays, `s` intervals each. Differentiable in the field's parameters."""

    rgb: Tensor
    """`n 3` in [0, 1], over the background."""
    opacity: Tensor
    """`n` in [0, 1]."""
    depth: Tensor
    """`n`: mean depth along the optical axis of what the ray meets, world units; 0 where it meets nothing."""
    normals: Tensor | None
    """`n 3`: weighted mean of unit normals, of length up to the opacity; None unless asked for."""
    weights: Tensor
    """`n s`: share of the ray's light from each interval; with what passes through they add up to 1."""
    distances: Tensor
    """`n s`: middles of the intervals, along the ray."""
    widths: Tensor
    """`n s`: lengths of the intervals."""
    facing: Tensor | None
    """`n s`: normal times ray direction per interval, above 0 where a normal looks away; None without normals."""


def intersect(bundle: Rays, bounds: Bounds) -> tuple[Tensor, Tensor]:
    """Distances `n` at which rays enter and leave the cube; equal where they miss it."""
    center = bundle.origins.new_tensor(bounds.center)
    safe = torch.where(bundle.directions.abs() < 1e-9, 1e-9, bundle.directions)
    middle, spread = (center - bundle.origins) / safe, bounds.half / safe.abs()
    near = (middle - spread).amax(-1).clamp_min(0)
    return near, torch.maximum((middle + spread).amin(-1), near)


def weights_of(density: Tensor, widths: Tensor) -> Tensor:
    """Quadrature weights T_i (1 - exp(-density_i width_i)), `n s` (Max 1995; NeRF, arXiv 2003.08934, eq. 3).

    Exact for density that is constant in every interval; the weights and exp(-total optical depth) add up to 1.
    """
    optical = density * widths
    before = torch.cumsum(optical, -1) - optical
    return torch.exp(-before) * -torch.expm1(-optical)


def render_rays(
    field: AbstractField,
    bundle: Rays,
    config: RenderConfig,
    *,
    background: Tensor | float = 1.0,
    occupancy: Occupancy | None = None,
    light: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> RenderedRays:
    """Render `n` rays.

    Args:
        field: what is there.
        bundle: `n` rays.
        config: intervals and shading.
        background: what lies behind, in [0, 1]: a number, `3`, or `n 3`.
        occupancy: skip the field where it says nothing is; None asks the field everywhere.
        light: place of the point light, `3` or `n 3`, world units; None: at the camera.
        generator: samples at random places of the intervals (training); None: at their middles.
    """
    near, far = intersect(bundle, field.bounds)
    widths = ((far - near) / config.samples)[:, None].expand(-1, config.samples)
    steps = torch.arange(config.samples, device=near.device)
    drawn = torch.full(widths.shape, 0.5) if generator is None else torch.rand(widths.shape, generator=generator)
    place = drawn.to(near.device)
    points = (
        bundle.origins[:, None] + bundle.directions[:, None] * (near[:, None] + (steps + place) * widths)[..., None]
    )
    flat = points.reshape(-1, 3)
    wanted = torch.nonzero(_worth_asking(flat, widths, occupancy))[:, 0]
    ray = wanted // config.samples
    width, share = widths.reshape(-1)[wanted], place.reshape(-1)[wanted]
    found = field.query_along(flat[wanted], Along(bundle.directions[ray], share * width, (1 - share) * width))
    density = _scatter(found.density, wanted, len(flat)).view_as(widths)
    weights = weights_of(density, widths)
    color, normals = found.albedo, None
    if config.normals or config.shading != "albedo":
        normals = field.normals(flat[wanted])
        where = bundle.origins if light is None else light.expand_as(bundle.origins)
        color = shade(color, normals, where[ray] - flat[wanted], config.shading, config.ambient)
    weighted = weights.reshape(-1)[wanted][:, None]
    middles = near[:, None] + (steps + 0.5) * widths
    opacity = weights.sum(-1)
    per_ray = _Summed(ray, len(bundle))
    behind = torch.as_tensor(background, dtype=opacity.dtype, device=opacity.device)
    facing = None
    if normals is not None:
        cosine = (normals * bundle.directions[ray]).sum(-1)
        facing = _scatter(cosine, wanted, len(flat)).view_as(widths)
    return RenderedRays(
        rgb=per_ray(weighted * color) + (1 - opacity)[:, None] * behind,
        opacity=opacity,
        depth=(weights * middles).sum(-1) / opacity.clamp_min(1e-6) * bundle.along,
        normals=None if normals is None else per_ray(weighted * normals),
        weights=weights,
        distances=middles,
        widths=widths,
        facing=facing,
    )


def _worth_asking(points: Tensor, widths: Tensor, occupancy: Occupancy | None) -> Tensor:
    wanted = (widths > 0).reshape(-1)
    return wanted if occupancy is None else wanted & occupancy(points)


def _scatter(values: Tensor, index: Tensor, count: int) -> Tensor:
    return values.new_zeros(count).index_copy(0, index, values)


@dataclasses.dataclass(frozen=True)
class _Summed:
    """Sums rows `m c` by ray: `n c`."""

    ray: Tensor
    count: int

    def __call__(self, values: Tensor) -> Tensor:
        return values.new_zeros(self.count, values.shape[1]).index_add(0, self.ray, values)


def shade(albedo: Tensor, normals: Tensor, to_light: Tensor, shading: Shading, ambient: float) -> Tensor:
    """Colours `n 3` of matt surfaces under one light and light from everywhere (DreamFusion, sec. 3.1).

    Args:
        albedo: `n 3` in [0, 1]; not read when textureless or of normals.
        normals: `n 3`, unit.
        to_light: `n 3`, of any length.
        shading: see `RenderConfig`.
        ambient: share of the light from everywhere.
    """
    if shading == "albedo":
        return albedo
    if shading == "normals":
        # Right, up and towards a viewer in front, as pictures of normals have it.
        return (torch.stack([normals[:, 0], normals[:, 2], -normals[:, 1]], 1) + 1) / 2
    direction = torch.nn.functional.normalize(to_light, dim=-1)
    diffuse = (normals * direction).sum(-1, keepdim=True).clamp_min(0)
    surface = torch.ones_like(albedo) if shading == "textureless" else albedo
    return surface * (ambient + (1 - ambient) * diffuse)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Views:
    """Pictures of a field from `b` cameras."""

    rgb: Tensor
    """`b 3 h w` in [0, 1]."""
    opacity: Tensor
    """`b h w` in [0, 1]."""
    depth: Tensor
    """`b h w`: along the optical axis, world units; 0 where nothing is met."""
    normals: Tensor | None
    """`b 3 h w`, world axes; None unless asked for."""


@torch.no_grad()
def render_views(
    field: AbstractField,
    cameras: Cameras,
    height: int,
    width: int,
    config: RenderConfig | None = None,
    *,
    background: float = 1.0,
    occupancy: Occupancy | None = None,
) -> Views:
    """Whole pictures on the CPU, without gradients, a few thousand rays at a time. Arguments as for `render_rays`."""
    bundle, settings = rays(cameras.to(field.device), height, width), config or RenderConfig()
    pieces = [
        render_rays(field, bundle[slice(i, i + _CHUNK_RAYS)], settings, background=background, occupancy=occupancy)
        for i in range(0, len(bundle), _CHUNK_RAYS)
    ]
    size = (len(cameras), height, width)
    normals = [piece.normals.cpu() for piece in pieces if piece.normals is not None]
    return Views(
        rgb=torch.cat([piece.rgb.cpu() for piece in pieces]).view(*size, 3).permute(0, 3, 1, 2).contiguous(),
        opacity=torch.cat([piece.opacity.cpu() for piece in pieces]).view(size),
        depth=torch.cat([piece.depth.cpu() for piece in pieces]).view(size),
        normals=torch.cat(normals).view(*size, 3).permute(0, 3, 1, 2).contiguous() if normals else None,
    )
