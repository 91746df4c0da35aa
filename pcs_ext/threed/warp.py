"""What a photo shows, seen from a little to the side: its pixels moved by their depth."""

import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from pcs_ext.errors import InputError, ResourceError, UsageError
from pcs_ext.threed.cameras import Cameras, rays
from pcs_ext.threed.rasterize import project, rasterize

_STEEPEST = 6.0
"""Pixels' widths between the depths of neighbours above which they belong to different surfaces."""
_GREY = ("L", "F", "I", "I;16", "I;16B", "I;16L")
"""Modes of pictures that are taken as they are; of those with 16 bits Pillow's own way to 8 keeps too little."""


@torch.no_grad()
def warped(image: Tensor, depth: Tensor, cover: Tensor, source: Cameras, targets: Cameras) -> tuple[Tensor, Tensor]:
    """Pictures `b 3 h w` from other cameras, and where they show something, `b 1 h w` bool; elsewhere they are 0.

    Neighbouring pixels are joined to a sheet, torn where depth jumps; parts of it that turn away are not seen.

    Args:
        image: `3 h w`, of any range.
        depth: `h w`, along the optical axis, world units.
        cover: `h w` bool: the pixels that are moved.
        source: the one camera that `image` was taken with.
        targets: `b`.

    Raises:
        UsageError: sizes that differ, or not one source.
    """
    size = (image.shape[1], image.shape[2])
    if tuple(depth.shape) != size or tuple(cover.shape) != size or len(source) != 1:
        raise UsageError(
            f"expected depth and cover of {size[0]} x {size[1]} pixels and one camera, got {tuple(depth.shape)}, "
            f"{tuple(cover.shape)} and {len(source)}."
        )
    bundle = rays(source, *size)
    reach = torch.where(cover, depth, depth.new_ones(())).reshape(-1) / bundle.along
    points, colors = bundle.origins + bundle.directions * reach[:, None], image.permute(1, 2, 0).reshape(-1, 3)
    pixel = 2 * math.tan(math.radians(float(source.fov[0])) / 2) / size[0]
    faces = _sheet(depth, cover, _STEEPEST * pixel)
    front = _areas(project(source, 0, points, *size), faces).sign()
    pictures, seen = [], []
    for index in range(len(targets)):
        placed = project(targets, index, points, *size)
        kept = faces[_areas(placed, faces) * front > 0]
        found = rasterize(placed, kept, *size)
        seen.append(found.face >= 0)
        color = found.interpolate(colors, kept) if len(kept) else colors.new_zeros(*size, 3)
        pictures.append(torch.where(seen[-1][..., None], color, torch.zeros_like(color)).permute(2, 0, 1))
    return torch.stack(pictures), torch.stack(seen)[:, None]


def _sheet(depth: Tensor, cover: Tensor, steepest: float) -> Tensor:
    """Triangles `m 3` between covered neighbours whose depths differ by less than `steepest` times their depth."""
    height, width = depth.shape
    index = torch.arange(height * width).view(height, width)
    corners = torch.stack([index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:]], -1).reshape(-1, 4)
    held = cover.reshape(-1)[corners].all(1)
    near = depth.reshape(-1)[corners]
    held &= near.amax(1) - near.amin(1) < steepest * near.amin(1)
    return torch.cat([corners[held][:, [0, 1, 2]], corners[held][:, [0, 2, 3]]])


def _areas(points: Tensor, faces: Tensor) -> Tensor:
    """Twice the signed areas `m` of projected triangles."""
    a, b, c = points[faces][..., :2].double().unbind(1)
    return (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]


def inflated(cover: Tensor) -> Tensor:
    """How near each pixel is, `h w` in [0, 1], of a thing of which only the outline is known: round, nearest inside.

    sqrt(1 - (1 - d)^2), d the distance to the outline as a share of the largest: a ball's profile.

    Args:
        cover: `h w` bool.

    Raises:
        ResourceError: scipy is not installed.
        InputError: nothing is covered.
    """
    try:
        from scipy import ndimage
    except ImportError as error:
        raise ResourceError(f"shapes from outlines need scipy ({error}). Run: pip install 'pcs_ext[threed]'") from None
    if not cover.any():
        raise InputError("the mask covers nothing; expected white where the subject is.")
    away = np.asarray(ndimage.distance_transform_edt(np.pad(cover.numpy(), 1)), dtype=np.float32)
    distance = torch.from_numpy(away[1:-1, 1:-1])
    return (1 - (1 - distance / distance.max()).square()).clamp_min(0).sqrt()


def read_nearness(path: Path, size: tuple[int, int]) -> Tensor:
    """A depth picture as `h w` in [0, 1], brighter is nearer, as estimators and ControlNets have it; 8 or 16 bits.

    Args:
        path: of the picture.
        size: height and width to bring it to.

    Raises:
        InputError: it cannot be read, is not finite, or all of it is equally far.
    """
    try:
        with Image.open(path) as image:
            grey = np.array(image if image.mode in _GREY else image.convert("L"), dtype=np.float32)
    except OSError:
        raise InputError(
            f"{path} cannot be read as a picture; expected a depth picture of 8 or 16 bits, brighter where things are "
            "nearer."
        ) from None
    if not np.isfinite(grey).all():
        raise InputError(f"{path} holds numbers that are not finite; expected a depth picture that says all distances.")
    low, high = float(grey.min()), float(grey.max())
    if not high > low:
        raise InputError(f"{path} is {low:g} everywhere; expected a depth picture, brighter where things are nearer.")
    scaled = torch.from_numpy((grey - low) / (high - low))[None, None]
    return functional.interpolate(scaled, size, mode="bilinear", antialias=True)[0, 0].clamp(0, 1)
