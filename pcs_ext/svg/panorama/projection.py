"""What a panorama shows in a direction. Width is twice the height, the middle column looks ahead, up is up."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.errors import UsageError

FACES = {"front": (0.0, 0.0), "right": (90.0, 0.0), "back": (180.0, 0.0), "left": (-90.0, 0.0),
         "up": (0.0, 90.0), "down": (0.0, -90.0)}  # fmt: skip
"""Azimuth (to the right) and elevation of the cube's faces, degrees."""


def directions(azimuth: float, elevation: float, fov: float, height: int, width: int) -> Tensor:
    """Unit directions `h w 3` (right, up, ahead) through the pixel centres of a perspective picture.

    Args:
        azimuth: degrees to the right of the panorama's middle.
        elevation: degrees above the horizon.
        fov: full horizontal angle, degrees in (0, 180).
        height, width: of the picture, pixels.

    Raises:
        UsageError: the angle is out of range.
    """
    if not 0 < fov < 180:
        raise UsageError(f"the field of view must lie between 0 and 180 degrees, got {fov}.")
    reach = math.tan(math.radians(fov) / 2)
    x = ((torch.arange(width, dtype=torch.float64) + 0.5) * 2 / width - 1) * reach
    y = (1 - (torch.arange(height, dtype=torch.float64) + 0.5) * 2 / height) * reach * height / width
    right, up = x.expand(height, -1), y[:, None].expand(-1, width)
    ahead = torch.ones_like(right)
    e, a = math.radians(elevation), math.radians(azimuth)
    up, ahead = up * math.cos(e) + ahead * math.sin(e), ahead * math.cos(e) - up * math.sin(e)
    right, ahead = right * math.cos(a) + ahead * math.sin(a), ahead * math.cos(a) - right * math.sin(a)
    return F.normalize(torch.stack([right, up, ahead], -1), dim=-1)


def look(panorama: Tensor, toward: Tensor) -> Tensor:
    """The panorama's colours in directions, bilinear across the seam and the poles. Differentiable.

    Args:
        panorama: `b c h 2h`.
        toward: unit directions `h' w' 3`.

    Returns:
        `b c h' w'`.
    """
    height, width = panorama.shape[-2:]
    toward = toward.to(panorama.device)
    longitude = torch.atan2(toward[..., 0], toward[..., 2])
    latitude = torch.asin(toward[..., 1].clamp(-1, 1))
    x = (longitude / (2 * math.pi) + 0.5) * width - 0.5
    y = (0.5 - latitude / math.pi) * height - 0.5
    # Beyond a pole one comes down on the other side of the world.
    beyond = panorama.roll(width // 2, -1)
    padded = torch.cat([beyond[..., :1, :], panorama, beyond[..., -1:, :]], -2)
    padded = F.pad(padded, (1, 1, 0, 0), mode="circular")
    grid = torch.stack([2 * (x + 1) / (width + 1) - 1, 2 * (y + 1) / (height + 1) - 1], -1).to(panorama.dtype)
    return F.grid_sample(padded, grid.expand(len(panorama), -1, -1, -1), mode="bilinear", align_corners=True)


def perspective(
    panorama: Tensor, azimuth: float, elevation: float = 0.0, *, fov: float = 90.0, height: int, width: int
) -> Tensor:
    """A perspective picture `b c height width` taken inside the panorama `b c h 2h`; angles as in `directions`."""
    return look(panorama, directions(azimuth, elevation, fov, height, width))


def cube(panorama: Tensor, side: int) -> dict[str, Tensor]:
    """The six faces of the cube around the viewer, `b c side side` each, by the names of `FACES`."""
    return {
        name: perspective(panorama, azimuth, elevation, height=side, width=side)
        for name, (azimuth, elevation) in FACES.items()
    }
