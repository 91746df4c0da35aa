"""Toys from all around, as they are: what objects made of them are measured against. Needs no model."""

import dataclasses

import torch
from torch import Tensor

from pcs_ext.threed.cameras import Cameras, rays, ring
from pcs_ext.threed.fields import Bounds
from pcs_ext.threed.rasterize import project
from pcs_ext.toybox.world.render import render, render_rgb
from pcs_ext.toybox.world.scene import Camera, Scene, SceneObject

VIEWS = 24
"""All around, at 15 degrees: no photo is taken from there but by chance."""
_UNDERGROUND = (0.0, 0.0, -100.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrueToy:
    """A toy from all around."""

    name: str
    """Its class."""
    cameras: Cameras
    """`b`."""
    images: Tensor
    """`b 3 h w` in [0, 1], over white."""
    coverage: Tensor
    """`b 1 h w` in [0, 1]: share of the pixel that it covers."""
    masks: Tensor
    """`b h w` bool: it is at the pixel's centre."""
    depth: Tensor
    """`b h w`: along the optical axis, where the mask is."""
    points: Tensor
    """`n 3`: its surface as it is seen."""
    scenery: Tensor
    """`b 3 h w` in [0, 1]: the plain place without it; judges are used to one."""


def true_toy(toy: SceneObject, side: int = 64, views: int = VIEWS) -> TrueToy:
    """The truth from a ring of `views` cameras, `side` pixels square."""
    cameras = ring(views)
    places = [
        Camera(azimuth=a, elevation=e)
        for a, e in zip(cameras.azimuth.tolist(), cameras.elevation.tolist(), strict=True)
    ]
    shown = render([Scene(objects=(toy,), camera=place) for place in places], resolution=side)
    gone = dataclasses.replace(toy, position=_UNDERGROUND)
    scenery = render_rgb([Scene(objects=(gone,), camera=place) for place in places], resolution=side)
    cover = shown.coverage[:, None]
    return TrueToy(
        name=toy.class_name,
        cameras=cameras,
        images=(shown.rgb * 0.5 + 0.5) * cover + (1 - cover),
        coverage=cover,
        masks=shown.mask,
        depth=shown.depth,
        points=_seen_points(cameras, shown.mask, shown.depth),
        scenery=scenery * 0.5 + 0.5,
    )


def _seen_points(cameras: Cameras, masks: Tensor, depth: Tensor) -> Tensor:
    bundle, seen = rays(cameras, *masks.shape[1:]), masks.reshape(-1)
    reach = depth.reshape(-1)[seen] / bundle.along[seen]
    return bundle.origins[seen] + bundle.directions[seen] * reach[:, None]


def carved_distances(truth: TrueToy, resolution: int) -> Tensor:
    """How far in front of the toy the corners of a grid over the cube are in some view, `x y z` in cells.

    In [-1, 1]; below 0 where no view sees through.
    """
    bounds, side = Bounds(), truth.masks.shape[1]
    line = torch.linspace(-1, 1, resolution)
    grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).view(-1, 3)
    points = grid * bounds.half + torch.tensor(bounds.center)
    outside, step = torch.full((len(points),), -1.0), 2 * bounds.half / (resolution - 1)
    for index in range(len(truth.cameras)):
        column, row, depth = project(truth.cameras, index, points, side, side).unbind(1)
        x, y = (value.floor().long().clamp(0, side - 1) for value in (column, row))
        surface = torch.where(truth.masks[index], truth.depth[index], torch.inf)[y, x]
        outside = torch.maximum(outside, ((surface - depth) / step).clamp(-1, 1))
    return outside.view((resolution,) * 3)
