"""Cameras as matrices and rays. Camera-to-world, OpenGL axes (x right, y up, looking along -z), z up in the world."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.toybox.world.scene import Camera, Vector

EQUIRECTANGULAR = "equirectangular"


def axes(camera: Camera) -> tuple[Vector, Vector, Vector]:
    """Unit right, up and forward directions of a camera, in the world."""
    a, e = math.radians(camera.azimuth), math.radians(camera.elevation)
    sa, ca, se, ce = math.sin(a), math.cos(a), math.sin(e), math.cos(e)
    return (ca, sa, 0.0), (-sa * se, ca * se, ce), (-sa * ce, ca * ce, -se)


def position(camera: Camera) -> Vector:
    """Where a camera stands, world units."""
    forward = axes(camera)[2]
    x, y, z = (t - camera.distance * f for t, f in zip(camera.target, forward, strict=True))
    return x, y, z


def camera_to_world(camera: Camera) -> Tensor:
    """4 x 4 float64 camera-to-world matrix, OpenGL axes."""
    right, up, forward = axes(camera)
    matrix = torch.eye(4, dtype=torch.float64)
    columns = (right, up, [-f for f in forward], position(camera))
    matrix[:3] = torch.tensor(columns, dtype=torch.float64).T
    return matrix


def camera_table(cameras: Sequence[Camera], device: torch.device) -> Tensor:
    """`b 4 4` float32: rows right, up, forward, position; the last column holds tan(fov/2) in row 2, else 0."""
    rows = []
    for camera in cameras:
        right, up, forward = axes(camera)
        half = math.tan(math.radians(camera.fov) / 2)
        rows.append([[*right, 0.0], [*up, 0.0], [*forward, half], [*position(camera), 0.0]])
    return torch.tensor(rows, dtype=torch.float64).to(torch.float32).to(device)


def rays(table: Tensor, height: int, width: int, equirectangular: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Unit ray directions through all pixel centres.

    Args:
        table: `camera_table`.
        height, width: of the image in pixels.
        equirectangular: all cameras are (else all are perspective).

    Returns:
        x, y and z of the directions, each `b h w`.
    """
    device = table.device
    v = ((torch.arange(height, device=device, dtype=torch.float32) + 0.5) * (-2.0 / height) + 1.0)[None, :, None]
    u = ((torch.arange(width, device=device, dtype=torch.float32) + 0.5) * (2.0 / width) - 1.0)[None, None, :]
    if equirectangular:
        heading = torch.atan2(table[:, 2, 0], table[:, 2, 1])[:, None, None]
        longitude = u * math.pi + heading
        latitude = v * (math.pi / 2)
        flat = torch.cos(latitude)
        x, y = torch.sin(longitude) * flat, torch.cos(longitude) * flat
        return x, y, torch.sin(latitude).expand_as(x)
    half = table[:, 2, 3, None, None]
    a, b = u * (half * (width / height)), v * half
    right, up, forward = table[:, 0], table[:, 1], table[:, 2]
    x, y, z = (forward[:, k, None, None] + a * right[:, k, None, None] + b * up[:, k, None, None] for k in range(3))
    length = torch.rsqrt(x * x + y * y + z * z)
    return x * length, y * length, z * length


def project(points: Tensor, table: Tensor, height: int, width: int, equirectangular: bool) -> tuple[Tensor, Tensor]:
    """Pixel coordinates of world points.

    Args:
        points: `... 3`; `table` is `... 4 4`, one camera per point (broadcast).
        height, width: of the image in pixels.
        equirectangular: all cameras are.

    Returns:
        `... 2` pixel coordinates x, y (pixel centres at .5) and `...` depth: distance along the optical axis
        (perspective; points with depth <= 0 are behind the camera and their pixel is meaningless) or distance.
    """
    offset = points - table[..., 3, :3]
    if equirectangular:
        distance = offset.norm(dim=-1)
        heading = torch.atan2(table[..., 2, 0], table[..., 2, 1])
        longitude = torch.atan2(offset[..., 0], offset[..., 1]) - heading
        longitude = torch.remainder(longitude + math.pi, 2 * math.pi) - math.pi
        latitude = torch.asin((offset[..., 2] / distance.clamp_min(1e-9)).clamp(-1, 1))
        x = (longitude / math.pi + 1) * (width / 2)
        y = (1 - latitude / (math.pi / 2)) * (height / 2)
        return torch.stack([x, y], -1), distance
    right, up, depth = ((offset * table[..., k, :3]).sum(-1) for k in range(3))
    scale = 1 / (depth.clamp_min(1e-6) * table[..., 2, 3])
    x = (right * scale * (height / width) + 1) * (width / 2)
    y = (1 - up * scale) * (height / 2)
    return torch.stack([x, y], -1), depth
