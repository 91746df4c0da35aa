"""Outlines that move smoothly: pixels beside a silhouette blended by where it passes between their centres.

What nvdiffrast calls antialiasing (Laine et al. 2020, arXiv 2011.03277, sec. 3.6); it is what lets a picture move a
mesh's outline. Differs from it: all silhouette edges are walked along, instead of those of the triangles in view, so
that triangles smaller than a pixel count too.
"""

import dataclasses
import math

import torch
from torch import Tensor

_NEAR = 1e-3
_TIE = 1e-3
"""Relative depth up to which an edge counts as in front of what is beside it."""


@dataclasses.dataclass(frozen=True)
class Edges:
    """Undirected edges of a mesh."""

    ends: Tensor
    """`e 2`: vertices."""
    faces: Tensor
    """`e 2`: a face on either side; the second is -1 where there is none."""
    opposite: Tensor
    """`e`: the first face's third vertex."""


def mesh_edges(faces: Tensor) -> Edges:
    """Every edge once. Of an edge with more than two faces, two are kept."""
    ends = torch.stack([faces, faces.roll(-1, 1)], -1).view(-1, 2)
    opposite = faces.roll(-2, 1).reshape(-1)
    base = int(faces.max()) + 1 if len(faces) else 1
    keys = ends.amin(1) * base + ends.amax(1)
    order = keys.argsort(stable=True)
    change = keys[order].diff() != 0
    first = torch.cat([change.new_ones(min(len(keys), 1)), change])
    last = torch.cat([change, change.new_ones(min(len(keys), 1))])
    start, stop = order[first], order[last]
    second = torch.where(start == stop, -1, stop // 3)
    return Edges(ends[start], torch.stack([start // 3, second], 1), opposite[start])


def soften(image: Tensor, depth: Tensor, points: Tensor, faces: Tensor, edges: Edges) -> Tensor:
    """The picture with its silhouettes blended, `h w c`. Differentiable in the image and in the points' places.

    Args:
        image: `h w c`: colours, opacity, whatever is to be blended.
        depth: `h w`: of the nearest triangle; infinite where there is none.
        points: `n 3`: column, row, depth, as `project` gives them.
        faces: `m 3`.
        edges: of the faces.
    """
    a, b, side = _silhouettes(points, faces, edges)
    across = _blended(image, depth, a, b, side)
    swapped = [part[:, [1, 0, 2]] for part in (a, b, side)]
    down = _blended(image.transpose(0, 1), depth.T, *swapped).transpose(0, 1)
    return image + across + down


def _silhouettes(points: Tensor, faces: Tensor, edges: Edges) -> tuple[Tensor, Tensor, Tensor]:
    """Ends `k 3` of the edges where the surface turns away or stops, and a point `k 3` on the surface's side."""
    with torch.no_grad():
        corners = points[faces]
        along, other = (corners[:, k, :2] - corners[:, 0, :2] for k in (1, 2))
        front = along[:, 0] * other[:, 1] - along[:, 1] * other[:, 0] > 0
        turns = front[edges.faces[:, 0]] != front[edges.faces[:, 1].clamp_min(0)]
        seen = (points[edges.ends][..., 2] > _NEAR).all(1) & (points[edges.opposite][:, 2] > _NEAR)
        chosen = ((edges.faces[:, 1] < 0) | turns) & seen
    ends = points[edges.ends[chosen]]
    return ends[:, 0], ends[:, 1], points[edges.opposite[chosen]].detach()


def _blended(image: Tensor, depth: Tensor, a: Tensor, b: Tensor, side: Tensor) -> Tensor:
    """What blending pairs of neighbours in a row adds to the picture, `h w c`. Only steep edges count here."""
    height, width, channels = image.shape
    edge, row = _crossings(a.detach(), b.detach(), height)
    a, b, side = a[edge], b[edge], side[edge]
    share = (row + 0.5 - a[:, 1]) / (b[:, 1] - a[:, 1])
    x = a[:, 0] + share * (b[:, 0] - a[:, 0]) - 0.5
    left = x.detach().floor().long()
    with torch.no_grad():
        z = 1 / ((1 - share) / a[:, 2] + share / b[:, 2])
        turn = (b - a)[:, 0] * (side - a)[:, 1] - (b - a)[:, 1] * (side - a)[:, 0]
        inside_left = (turn > 0) == (b[:, 1] > a[:, 1])
        inner, outer = torch.where(inside_left, left, left + 1), torch.where(inside_left, left + 1, left)
        valid = (left >= 0) & (left + 1 < width)
        pixel = row * width
        behind = depth.reshape(-1)[(pixel + outer).clamp(0, height * width - 1)]
        valid &= z <= behind * (1 + _TIE)
        kept = torch.nonzero(valid)[:, 0]
        kept = kept[_nearest(pixel[kept] + left[kept], z[kept], height * width)]
    extent = torch.where(inside_left, x - left, left + 1 - x)[kept] - 0.5
    inner, outer = (pixel + inner)[kept], (pixel + outer)[kept]
    flat = image.reshape(-1, channels)
    target, source = torch.where(extent > 0, outer, inner), torch.where(extent > 0, inner, outer)
    amount = extent.abs()[:, None].to(flat)
    return torch.zeros_like(flat).index_add(0, target, amount * (flat[source] - flat[target])).view_as(image)


def _crossings(a: Tensor, b: Tensor, height: int) -> tuple[Tensor, Tensor]:
    """Which steep edge crosses the middle of which row: indices of edges and rows, one per crossing."""
    low, high = torch.minimum(a[:, 1], b[:, 1]), torch.maximum(a[:, 1], b[:, 1])
    steep = (b - a)[:, 1].abs() >= (b - a)[:, 0].abs()
    first = (low - 0.5).ceil().clamp(0, height).long()
    count = ((high - 0.5).ceil().clamp(0, height).long() - first).clamp_min(0) * steep
    edge = torch.repeat_interleave(torch.arange(len(a), device=a.device), count)
    return edge, first[edge] + torch.arange(len(edge), device=edge.device) - (count.cumsum(0) - count)[edge]


def _nearest(pair: Tensor, z: Tensor, size: int) -> Tensor:
    """Of several edges between the same two pixels, the nearest one."""
    best = z.new_full((size,), math.inf).scatter_reduce(0, pair, z, "amin")
    return torch.nonzero(z <= best[pair])[:, 0]
