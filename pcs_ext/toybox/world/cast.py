"""Which part every pixel sees: rays against the parts whose screen box holds the pixel."""

import dataclasses

import torch
from torch import Tensor

from pcs_ext.toybox.world.assembly import Assembly
from pcs_ext.toybox.world.camera import project
from pcs_ext.toybox.world.intersect import Vectors, hit, normal

_NOTHING = torch.iinfo(torch.int64).max


@dataclasses.dataclass(frozen=True, kw_only=True)
class Frame:
    """The pixel grid of a batch: `scenes` images of `height` x `width`, flattened to rays in that order."""

    table: Tensor
    """`camera_table` of the scenes."""
    height: int
    width: int
    equirectangular: bool
    directions: Vectors
    """Unit directions, each flat over all rays."""

    @property
    def pixels(self) -> int:
        """Rays per scene."""
        return self.height * self.width


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hits:
    """The rays that meet an object (H of them)."""

    ray: Tensor
    """H int64, ascending."""
    part: Tensor
    """H int64: row of the assembly."""
    distance: Tensor
    """H: along the unit ray."""
    local: Vectors
    """The point in the part's unit frame."""
    local_normal: Vectors
    """Outward normal in the part's unit frame, any length."""
    normal: Vectors
    """Unit normal in the world, towards the camera."""


def cast(parts: Assembly, frame: Frame) -> Hits:
    """Nearest hit of every ray."""
    boxes = screen_boxes(parts.matrix, parts.center, parts.scene, frame)
    ray, part, ends = pairs(boxes, parts.scene, frame, [last for _, _, last in parts.kinds])
    local_origin = frame.table[parts.scene, 3, :3] - parts.center
    origin = [_row(parts.inverse, k, local_origin) for k in range(3)]
    packed = []
    first = 0
    for (kind, _, _), last in zip(parts.kinds, ends, strict=True):
        r, p = ray[first:last], part[first:last]
        t = hit(kind, _gather(origin, p), _local_direction(parts, frame, r, p))
        met = torch.nonzero(t < torch.inf)[:, 0]
        packed.append((r[met], p[met], t[met]))
        first = last
    return _nearest(parts, frame, origin, *(torch.cat(column) for column in zip(*packed, strict=True)))


def _nearest(parts: Assembly, frame: Frame, origin: list[Tensor], ray: Tensor, part: Tensor, t: Tensor) -> Hits:
    # Positive floats order like their bits, so (bits, part) as one integer makes the minimum deterministic.
    key = (t.contiguous().view(torch.int32).to(torch.int64) << 32) | part
    best = torch.full((frame.table.shape[0] * frame.pixels,), _NOTHING, dtype=torch.int64, device=t.device)
    best.scatter_reduce_(0, ray, key, "amin")
    ray = torch.nonzero(best != _NOTHING)[:, 0]
    key = best[ray]
    part = key & 0xFFFFFFFF
    t = (key >> 32).to(torch.int32).view(torch.float32)
    d = _local_direction(parts, frame, ray, part)
    o = _gather(origin, part)
    local = (o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2])
    local_normal = _local_normals(parts, part, local)
    world = _to_world_normal(parts, frame, ray, part, local_normal)
    return Hits(ray=ray, part=part, distance=t, local=local, local_normal=local_normal, normal=world)


def _local_normals(parts: Assembly, part: Tensor, local: Vectors) -> Vectors:
    result = tuple(torch.empty_like(c) for c in local)
    for kind, first, last in parts.kinds:
        of_kind = torch.nonzero((part >= first) & (part < last))[:, 0]
        values = normal(kind, *(c[of_kind] for c in local))
        for target, value in zip(result, values, strict=True):
            target[of_kind] = value
    return result  # type: ignore[return-value]


def _to_world_normal(parts: Assembly, frame: Frame, ray: Tensor, part: Tensor, n: Vectors) -> Vectors:
    inverse = parts.inverse
    x, y, z = (
        n[0] * inverse[:, 0, k][part] + n[1] * inverse[:, 1, k][part] + n[2] * inverse[:, 2, k][part] for k in range(3)
    )
    d = _gather(list(frame.directions), ray)
    towards = torch.where(x * d[0] + y * d[1] + z * d[2] > 0, -1.0, 1.0)
    scale = towards * torch.rsqrt((x * x + y * y + z * z).clamp_min(1e-20))
    return x * scale, y * scale, z * scale


def screen_boxes(matrix: Tensor, center: Tensor, scene: Tensor, frame: Frame) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixel boxes x0, y0, width, height (P int64 each) that hold the images of unit cubes under affine maps.

    The whole image for equirectangular cameras and for cubes that reach behind the camera.
    """
    if frame.equirectangular:
        zero = torch.zeros_like(scene)
        return zero, zero, zero + frame.width, zero + frame.height
    signs = torch.tensor([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
    signs = signs.to(center.device)
    corners = center[:, None, :] + (matrix[:, None] * signs[None, :, None, :]).sum(-1)
    return _boxes_of(corners, scene, frame)


def _boxes_of(corners: Tensor, scene: Tensor, frame: Frame) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    pixels, depth = project(corners, frame.table[scene][:, None], frame.height, frame.width, False)
    low, high = pixels.amin(1), pixels.amax(1)
    behind = (depth.amin(1) < 0.05)[:, None]
    size = torch.tensor([frame.width, frame.height], device=corners.device)
    low = torch.where(behind, 0, torch.minimum((low - 0.6).floor().clamp_min(0), size).to(torch.int64))
    high = torch.where(behind, size, torch.minimum((high + 0.6).ceil().clamp_min(0), size).to(torch.int64))
    extent = (high - low).clamp_min(0)
    return low[:, 0], low[:, 1], extent[:, 0], extent[:, 1]


def pairs(
    boxes: tuple[Tensor, Tensor, Tensor, Tensor], scene: Tensor, frame: Frame, ends: list[int]
) -> tuple[Tensor, Tensor, list[int]]:
    """All (ray, part) pairs of parts whose box holds the ray's pixel.

    Args:
        boxes: from `screen_boxes`.
        scene: P, scene of each part.
        frame: the pixel grid.
        ends: part numbers; where the pairs of parts below each of these end is returned.

    Returns:
        ray and part of every pair (int64, ordered by part) and the pair number for each of `ends`.
    """
    x0, y0, width, height = boxes
    device = scene.device
    height = torch.where(width > 0, height, 0)
    row_part = torch.repeat_interleave(torch.arange(len(scene), device=device), height)
    row_start = torch.cumsum(height, 0) - height
    row_width = width[row_part]
    pair_start = torch.cumsum(row_width, 0) - row_width
    y = torch.arange(len(row_part), device=device) + (y0 - row_start)[row_part]
    offset = scene[row_part] * frame.pixels + y * frame.width + x0[row_part] - pair_start
    row = torch.repeat_interleave(torch.arange(len(row_part), device=device), row_width)
    ray = torch.arange(len(row), device=device) + offset[row]
    counts = torch.cumsum(width * height, 0)
    return ray, row_part[row], counts[torch.tensor([e - 1 for e in ends], device=device)].tolist()


def _row(matrices: Tensor, k: int, vectors: Tensor) -> Tensor:
    m = matrices[:, k]
    return m[:, 0] * vectors[:, 0] + m[:, 1] * vectors[:, 1] + m[:, 2] * vectors[:, 2]


def _gather(columns: list[Tensor], index: Tensor) -> Vectors:
    x, y, z = (column[index] for column in columns)
    return x, y, z


def _local_direction(parts: Assembly, frame: Frame, ray: Tensor, part: Tensor) -> Vectors:
    dx, dy, dz = _gather(list(frame.directions), ray)
    inverse = parts.inverse
    x, y, z = (
        inverse[:, k, 0][part] * dx + inverse[:, k, 1][part] * dy + inverse[:, k, 2][part] * dz for k in range(3)
    )
    return x, y, z


def shadow_boxes(parts: Assembly, lights: Tensor, frame: Frame) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Boxes like `screen_boxes` of the shadows that the parts' cubes cast; `lights` are unit vectors, one per scene."""
    if frame.equirectangular:
        return screen_boxes(parts.matrix, parts.center, parts.scene, frame)
    signs = torch.tensor([[x, y, z] for x in (-1.0, 1.0) for y in (-1.0, 1.0) for z in (-1.0, 1.0)])
    corners = parts.center[:, None] + (parts.matrix[:, None] * signs.to(parts.center.device)[None, :, None, :]).sum(-1)
    light = lights[parts.scene][:, None]
    height = corners[..., 2:].clamp_min(0)
    return _boxes_of(corners - light * (height / light[..., 2:]), parts.scene, frame)
