"""Marching tetrahedra: the surface of a signed distance on a grid of tetrahedra, differentiable in both.

The representation of DMTet (Shen et al. 2021, arXiv 2111.04276), which Magic3D refines. Differs from DMTet: every cube
of a regular grid is cut into the six tetrahedra of Kuhn (1960) instead of a precomputed mesh. The cuts of neighbours
agree, so the surface is closed.
"""

import functools
import itertools

import torch
from torch import Tensor

_EDGES = tuple(itertools.combinations(range(4), 2))
"""Edges of a tetrahedron by its corners, in the order of their numbers."""
_CPU = torch.device("cpu")


@functools.cache
def tet_grid(cells: int, device: torch.device = _CPU) -> tuple[Tensor, Tensor]:
    """Corners `(cells + 1)^3 3` in [-1, 1] and tetrahedra `6 cells^3 4` of positive orientation.

    Corner (i, j, k) of x, y, z has the number (i (cells + 1) + j) (cells + 1) + k.
    """
    line = torch.linspace(-1, 1, cells + 1)
    corners = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).view(-1, 3)
    stride = torch.tensor([(cells + 1) ** 2, cells + 1, 1])
    place = torch.stack(torch.meshgrid(*[torch.arange(cells)] * 3, indexing="ij"), -1).view(-1, 3)
    first = (place * stride).sum(1)
    tets = []
    for axes in itertools.permutations(range(3)):
        path = torch.tensor([0, *stride[list(axes)].cumsum(0).tolist()])
        if _odd((*axes,)):
            path = path[[0, 2, 1, 3]]
        tets.append(first[:, None] + path)
    return corners.to(device), torch.stack(tets, 1).view(-1, 4).to(device)


def march(positions: Tensor, distances: Tensor, tets: Tensor) -> tuple[Tensor, Tensor]:
    """Vertices `v 3` and faces `f 3` of the surface where the distance is 0, wound outwards.

    Vertices lie on edges at the linear root and are differentiable in positions and distances.

    Args:
        positions: `n 3`, moved little enough that every tetrahedron keeps its orientation.
        distances: `n`: below 0 inside.
        tets: `t 4` corners, positively oriented.
    """
    inside = distances.detach() < 0
    code = (inside[tets].long() * tets.new_tensor([1, 2, 4, 8])).sum(1)
    cut = torch.nonzero((code > 0) & (code < 15))[:, 0]
    corners, code = tets[cut], code[cut]
    pairs = corners[:, torch.tensor(_EDGES)]  # t 6 2
    keys = pairs.amin(2) * len(positions) + pairs.amax(2)
    table, count = _table()
    rows = [(keys[code == value][:, table[value, :used]]).reshape(-1, 3) for value, used in enumerate(count) if used]
    wanted = torch.cat(rows) if rows else tets.new_zeros(0, 3)
    edges, faces = torch.unique(wanted, return_inverse=True)
    low, high = edges // len(positions), edges % len(positions)
    a, b = distances[low][:, None], distances[high][:, None]
    return (positions[low] * b - positions[high] * a) / (b - a), faces.view(-1, 3)


@functools.cache
def _table() -> tuple[Tensor, tuple[int, ...]]:
    """For each set of inside corners the edges of its triangles, three by three, and how many."""
    table, count = torch.zeros(16, 6, dtype=torch.long), []
    for code in range(16):
        inside = [corner for corner in range(4) if code >> corner & 1]
        edges = _triangles(inside)
        table[code, : len(edges)] = torch.tensor(edges, dtype=torch.long)
        count.append(len(edges))
    return table, tuple(count)


def _triangles(inside: list[int]) -> list[int]:
    """Edges of the triangles that separate the inside corners from the others, seen from outside counterclockwise."""
    outside = [corner for corner in range(4) if corner not in inside]
    if len(inside) in (0, 4):
        return []
    if len(inside) == 2:
        i, j, k, m = _even([*inside, *outside])
        return [_edge(*pair) for pair in ((i, k), (i, m), (j, m), (i, k), (j, m), (j, k))]
    alone, others = (inside[0], outside) if len(inside) == 1 else (outside[0], inside)
    i, j, k, m = _even([alone, *others])
    ends = (j, k, m) if len(inside) == 1 else (j, m, k)
    return [_edge(i, end) for end in ends]


def _even(order: list[int]) -> list[int]:
    """The order with its last two swapped where it is an odd permutation."""
    return [order[0], order[1], order[3], order[2]] if _odd(tuple(order)) else order


def _odd(order: tuple[int, ...]) -> bool:
    return sum(a > b for a, b in itertools.combinations(order, 2)) % 2 == 1


def _edge(a: int, b: int) -> int:
    return _EDGES.index((min(a, b), max(a, b)))
