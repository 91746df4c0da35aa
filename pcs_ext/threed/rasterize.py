"""Which triangle each pixel sees: a z-buffer over all triangles at once, in plain torch."""

import dataclasses
import math

import torch
from torch import Tensor

from pcs_ext.threed.cameras import Cameras

_CHUNK = 2_000_000
"""Pixels of bounding boxes looked at together."""
_NEAR = 1e-3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fragments:
    """What `h w` pixel centres see."""

    face: Tensor
    """`h w` int64: index of the nearest triangle, -1 for none."""
    barycentric: Tensor
    """`h w 3`: perspective-correct weights of its corners, adding up to 1; 0 where nothing is."""

    def interpolate(self, values: Tensor, faces: Tensor) -> Tensor:
        """Values at corners, `n c`, to pixels, `h w c`; 0 where nothing is. Differentiable in the values."""
        corners = values[faces[self.face.clamp_min(0)]]
        return (corners * self.barycentric[..., None].to(values)).sum(-2)


def project(cameras: Cameras, index: int, vertices: Tensor, height: int, width: int) -> Tensor:
    """World points `n 3` to `n 3`: column and row of the picture (pixel centres at halves), and depth.

    Depth is measured along the optical axis; the other two mean nothing where it is not positive. Differentiable.
    """
    matrix = cameras.camera_to_world[index].to(vertices)
    local = (vertices - matrix[:3, 3]) @ matrix[:3, :3]
    depth = -local[:, 2]
    safe = torch.where(depth > _NEAR, depth, torch.ones_like(depth))
    focal = height / 2 / math.tan(math.radians(float(cameras.fov[index])) / 2)
    return torch.stack([width / 2 + focal * local[:, 0] / safe, height / 2 - focal * local[:, 1] / safe, depth], -1)


@torch.no_grad()
def rasterize(points: Tensor, faces: Tensor, height: int, width: int) -> Fragments:
    """The nearest triangle at every pixel centre.

    Triangles that reach behind the camera are left out. A pixel centre on an edge belongs to the triangle with the
    lower index of those at the same depth.

    Args:
        points: `n 3`, column, row and depth, as `project` gives them; depth 1 everywhere draws flat, as in a texture.
        faces: `m 3` indices of points, of either winding.
        height, width: of the picture.
    """
    points = points.double()
    corners = points[faces]
    seen = (corners[..., 2] > _NEAR).all(1)
    low = (corners[..., :2].amin(1) - 0.5).ceil().long().clamp_min(0)
    high = (corners[..., :2].amax(1) - 0.5).floor().long()
    high = torch.minimum(high, high.new_tensor([width - 1, height - 1]))
    size = (high - low + 1).clamp_min(0)
    count = size.prod(1) * seen
    depth = points.new_full((height * width,), math.inf)
    face = high.new_full((height * width,), -1)
    weights = points.new_zeros(height * width, 3)
    candidates = torch.nonzero(count)[:, 0]
    for part in _parts(count[candidates]):
        chosen = candidates[part]
        _draw(chosen, corners[chosen], low[chosen], size[chosen], width, (depth, face, weights))
    return Fragments(
        face=face.view(height, width), barycentric=weights.view(height, width, 3).to(torch.get_default_dtype())
    )


def barycentric_at(face: Tensor, points: Tensor, faces: Tensor) -> Tensor:
    """Perspective-correct weights `h w 3` of the triangles that `rasterize` found, with a graph back to the points.

    Args:
        face: `h w`, from `rasterize`; -1 where nothing is: weights 0 there.
        points: `n 3`, column, row and depth.
        faces: `m 3`.
    """
    row, column = torch.nonzero(face >= 0, as_tuple=True)
    corners = points[faces[face[row, column]]].double()
    weights, _ = _weights(corners, column + 0.5, row + 0.5)
    return points.new_zeros(*face.shape, 3).index_put((row, column), weights.to(points))


def _parts(count: Tensor) -> list[slice]:
    """Consecutive runs of triangles whose boxes together are of a bounded size."""
    if not len(count):
        return []
    label = count.cumsum(0) // _CHUNK
    ends = torch.nonzero(label.diff())[:, 0].add(1).tolist()
    return [slice(a, b) for a, b in zip([0, *ends], [*ends, len(count)], strict=True)]


def _draw(
    chosen: Tensor, corners: Tensor, low: Tensor, size: Tensor, width: int, picture: tuple[Tensor, Tensor, Tensor]
) -> None:
    """Test all pixels of the triangles' boxes and keep the nearest."""
    count = size.prod(1)
    row = torch.repeat_interleave(torch.arange(len(chosen), device=count.device), count)
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    x = low[row, 0] + place % size[row, 0]
    y = low[row, 1] + place // size[row, 0]
    flat, inverse_depth = _weights(corners[row], x + 0.5, y + 0.5)
    inside = (flat >= 0).all(1)
    row, pixel, flat, inverse_depth = row[inside], (y * width + x)[inside], flat[inside], inverse_depth[inside]
    depth, face, weights = picture
    z = 1 / inverse_depth
    nearest = depth.clone().scatter_reduce(0, pixel, z, "amin")
    better = (z <= nearest[pixel]) & (z < depth[pixel])
    row, pixel, flat = row[better], pixel[better], flat[better]
    first = row.new_full((len(depth),), len(chosen)).scatter_reduce(0, pixel, row, "amin")
    kept = row == first[pixel]
    row, pixel = row[kept], pixel[kept]
    face[pixel], weights[pixel], depth[pixel] = chosen[row], flat[kept], nearest[pixel]


def _weights(corners: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Perspective-correct weights `k 3` (below 0 outside) and inverse depths `k` at points of triangles `k 3 3`."""
    (ax, ay, az), (bx, by, bz), (cx, cy, cz) = (corner.unbind(-1) for corner in corners.unbind(1))
    area = (bx - ax) * (cy - ay) - (cx - ax) * (by - ay)
    flatness = area == 0
    safe = torch.where(flatness, torch.ones_like(area), area)
    u = ((bx - x) * (cy - y) - (cx - x) * (by - y)) / safe
    v = ((cx - x) * (ay - y) - (ax - x) * (cy - y)) / safe
    flat = torch.where(flatness[:, None], -1.0, torch.stack([u, v, 1 - u - v], -1))
    scaled = flat / torch.stack([az, bz, cz], -1)
    inverse_depth = scaled.sum(-1)
    return scaled / inverse_depth[:, None], inverse_depth
