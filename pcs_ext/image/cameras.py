"""Cameras as values and the rays they see along. Camera-to-world, OpenGL axes (looking along -z), z up in the world."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.errors import UsageError

Vector = tuple[float, float, float]
_ALIKE = 1e-3
"""Mean squared part of right axes outside their common direction below which they are alike: some 2 degrees."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cameras:
    """`b` perspective cameras with square pixels and the principal point in the middle."""

    camera_to_world: Tensor
    """`b 4 4` float32: columns right, up, backward, position."""
    fov: Tensor
    """`b` float32: full vertical angle of the picture, degrees."""
    azimuth: Tensor
    """`b` float32, degrees in (-180, 180]: 0 looks at the front (from -y), 90 from +x."""
    elevation: Tensor
    """`b` float32, degrees above the horizon, in [-90, 90]."""

    def __len__(self) -> int:
        return self.camera_to_world.shape[0]

    def __getitem__(self, index: slice | Tensor | list[int]) -> "Cameras":
        """Some of the cameras."""
        return Cameras(**{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)})

    @staticmethod
    def joined(parts: Sequence["Cameras"]) -> "Cameras":
        """All cameras of several, in their order."""
        names = [field.name for field in dataclasses.fields(Cameras)]
        return Cameras(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})

    def to(self, device: torch.device) -> "Cameras":
        """The same elsewhere."""
        return Cameras(**{f.name: getattr(self, f.name).to(device) for f in dataclasses.fields(self)})

    @property
    def positions(self) -> Tensor:
        """`b 3`, world units."""
        return self.camera_to_world[:, :3, 3]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rays:
    """`n` half lines."""

    origins: Tensor
    """`n 3`, world units."""
    directions: Tensor
    """`n 3`, unit."""
    along: Tensor
    """`n`: cosine to the optical axis; distance along the ray times this is depth."""

    def __len__(self) -> int:
        return self.origins.shape[0]

    def __getitem__(self, index: slice | Tensor) -> "Rays":
        """Some of the rays."""
        return Rays(origins=self.origins[index], directions=self.directions[index], along=self.along[index])


def orbit(
    azimuth: Tensor | Sequence[float],
    elevation: Tensor | Sequence[float],
    distance: Tensor | Sequence[float],
    fov: Tensor | Sequence[float],
    target: Vector = (0.0, 0.0, 0.0),
) -> Cameras:
    """Cameras on spheres about a target, looking at it, upright.

    Args:
        azimuth, elevation: `b`, degrees.
        distance: `b`, from the target, world units, above 0.
        fov: `b`, full vertical angle, degrees in (0, 180).
        target: the point in the middle of the pictures.

    Raises:
        UsageError: unequal counts, or a distance or angle out of range.
    """
    columns = [torch.as_tensor(value, dtype=torch.float64) for value in (azimuth, elevation, distance, fov)]
    if len({len(column) for column in columns}) != 1:
        counts = [len(column) for column in columns]
        raise UsageError(f"expected as many azimuths as elevations, distances and fovs, got {counts}.")
    a, e, d, angle = columns
    if (d <= 0).any() or (angle <= 0).any() or (angle >= 180).any() or (e.abs() > 90).any():
        raise UsageError(
            "expected distance > 0, fov in (0, 180) and elevation in [-90, 90]; check the camera settings."
        )
    sa, ca = torch.sin(torch.deg2rad(a)), torch.cos(torch.deg2rad(a))
    se, ce = torch.sin(torch.deg2rad(e)), torch.cos(torch.deg2rad(e))
    backward = torch.stack([sa * ce, -ca * ce, se], -1)
    matrix = torch.eye(4, dtype=torch.float64).repeat(len(a), 1, 1)
    matrix[:, :3, 0] = torch.stack([ca, sa, torch.zeros_like(ca)], -1)
    matrix[:, :3, 1] = torch.stack([-sa * se, ca * se, ce], -1)
    matrix[:, :3, 2] = backward
    matrix[:, :3, 3] = torch.tensor(target, dtype=torch.float64) + d[:, None] * backward
    wrapped = 180 - torch.remainder(180 - a, 360)
    return Cameras(camera_to_world=matrix.float(), fov=angle.float(), azimuth=wrapped.float(), elevation=e.float())


def upward(cameras: Cameras) -> Tensor:
    """Where up is for whoever held these cameras: `3`, unit, on the side of their mean up.

    The direction most nearly across all of their right axes, as cameras are held level: unlike the mean of their up
    axes it does not lean when all look down from one side. That mean, where all right axes are alike.
    """
    rights, ups = (cameras.camera_to_world[:, :3, axis].double() for axis in (0, 1))
    mean = torch.nn.functional.normalize(ups.sum(0), dim=0)
    spread, across = torch.linalg.eigh(rights.T @ rights / len(cameras))
    if spread[1] < _ALIKE:
        return mean.float()
    return (across[:, 0] * torch.where(across[:, 0] @ mean < 0, -1.0, 1.0)).float()


def tilted(cameras: Cameras, up: Tensor, center: Tensor) -> Cameras:
    """Cameras about the origin of an upright world, in one whose up is elsewhere: turned the shortest way, and moved.

    Their angles stay as they are counted from `up`.

    Args:
        cameras: `b`.
        up: `3`, unit, where z goes.
        center: `3`, where the origin goes.
    """
    x, y, z = up.double().tolist()
    turn = torch.eye(4, dtype=torch.float64)
    if z > -1 + 1e-9:  # Rodrigues' formula for the axis across z and up
        across = torch.tensor([[0, 0, x], [0, 0, y], [-x, -y, 0]], dtype=torch.float64)
        turn[:3, :3] += across + across @ across / (1 + z)
    else:
        turn[1, 1] = turn[2, 2] = -1.0
    turn[:3, 3] = center.double()
    return dataclasses.replace(cameras, camera_to_world=(turn @ cameras.camera_to_world.double()).float())


def of_squares(cameras: Cameras, heights: Sequence[int], widths: Sequence[int]) -> Cameras:
    """The cameras of the squares in the middle of pictures: of upright pictures the vertical angle shrinks.

    Args:
        cameras: `b`.
        heights, widths: of the pictures.
    """
    ratio = torch.tensor([min(height, width) / height for height, width in zip(heights, widths, strict=True)])
    half = torch.tan(cameras.fov * (math.pi / 360)) * ratio
    return dataclasses.replace(cameras, fov=torch.atan(half) * (360 / math.pi))


def ring(
    count: int, *, elevation: float = 15.0, distance: float = 5.2, fov: float = 32.0, target: Vector = (0.0, 0.0, 0.75)
) -> Cameras:
    """Evenly spaced azimuths from the front on; 120 views at 15 degrees are the usual evaluation ring."""
    if count < 1:
        raise UsageError(f"a ring needs at least one view, got {count}.")
    azimuth = torch.arange(count, dtype=torch.float64) * (360 / count)
    return orbit(azimuth, [elevation] * count, [distance] * count, [fov] * count, target)


def rays(cameras: Cameras, height: int, width: int) -> Rays:
    """Rays through all pixel centres, camera by camera, row by row: `b * height * width` of them."""
    matrix = cameras.camera_to_world
    v = 1 - (torch.arange(height, device=matrix.device) + 0.5) * (2 / height)
    u = (torch.arange(width, device=matrix.device) + 0.5) * (2 / width) - 1
    half = torch.tan(cameras.fov * (math.pi / 360))[:, None, None]
    across = (u * (width / height) * half).expand(-1, height, -1)
    upward = (v[:, None] * half).expand(-1, -1, width)
    local = torch.stack([across, upward, -torch.ones_like(across)], -1)
    local = local / local.norm(dim=-1, keepdim=True)
    directions = torch.einsum("bij,bhwj->bhwi", matrix[:, :3, :3], local)
    origins = cameras.positions[:, None, None].expand_as(directions)
    return Rays(origins=origins.reshape(-1, 3), directions=directions.reshape(-1, 3), along=-local[..., 2].reshape(-1))
