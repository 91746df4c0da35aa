"""From cubics to straight edges: adaptive flattening, and the outlines of strokes."""

import math

import torch
from torch import Tensor

from pcs_ext.svg.vector.scene import Cap, Join

TOLERANCE = 0.02
"""Largest distance between a curve and its chords, pixels."""
_SMOOTH = 0.5
"""Turns below this angle (radians) are bends of a curve, not corners."""
_MOST_CHORDS = 2048


def chord_counts(segments: Tensor, tolerance: float = TOLERANCE) -> Tensor:
    """Chords per cubic so that none is further than `tolerance` from the curve (Wang's bound), `s` of int64.

    Args:
        segments: control points `s 4 2` in pixels.
        tolerance: pixels.
    """
    points = segments.detach()
    second = points[:, :-2] - 2 * points[:, 1:-1] + points[:, 2:]
    bend = second.square().sum(-1).amax(-1).sqrt()
    return (bend * (0.75 / tolerance)).sqrt().ceil().clamp(1, _MOST_CHORDS).long()


def flatten(segments: Tensor, tolerance: float = TOLERANCE) -> tuple[Tensor, Tensor]:
    """Chords `e 2 2` (start and end) of cubics, and the cubic `e` that each belongs to. Differentiable in the points.

    Neighbouring chords share their end points exactly, so closed chains stay closed.

    Args:
        segments: control points `s 4 2` in pixels.
        tolerance: pixels.
    """
    counts = chord_counts(segments, tolerance)
    owner, step = runs(counts + 1)
    t = (step / counts[owner]).to(segments.dtype)[:, None]
    u = 1 - t
    weights = torch.stack([u * u * u, 3 * u * u * t, 3 * u * t * t, t * t * t], 1)
    vertices = (segments.index_select(0, owner) * weights).sum(1)
    starts = torch.nonzero(step < counts[owner])[:, 0]
    chords = torch.stack([vertices.index_select(0, starts), vertices.index_select(0, starts + 1)], 1)
    return chords, owner[starts]


def stroke_edges(chain: Tensor, closed: bool, width: Tensor, cap: Cap, join: Join, miter_limit: float) -> Tensor:
    """Directed edges `e 2 2` of the outline of a stroked chain; their non-zero winding is the stroke.

    A box per chord, a wedge per joint, caps. All boxes turn the same way, so windings add up and never cancel; at
    the bends of a curve the small overlap of two boxes on the inner side is taken off again.

    Args:
        chain: chords `n 2 2` in pixels, each starting where the last ended.
        closed: whether the last ends where the first starts.
        width: scalar, pixels.
        cap: of open chains.
        join: at corners.
        miter_limit: longest miter in widths, above it corners are cut.
    """
    half, whole = width / 2, chain
    chain = chain[(chain[:, 1] - chain[:, 0]).detach().abs().amax(1) > 1e-9]
    if not len(chain):
        return chain if cap == "butt" or not len(whole) else _dot(whole[0, 0], half, cap)
    along = chain[:, 1] - chain[:, 0]
    along = along / along.square().sum(1, keepdim=True).sqrt()
    side = half * torch.stack([-along[:, 1], along[:, 0]], 1)
    start, end = chain.unbind(1)
    polygons = [torch.stack([start + side, start - side, end - side, end + side], 1)]
    before, after = _joints(len(chain), closed)
    polygons += _wedges(start[after], along, side, before, after, half, chain, join, miter_limit)
    if not closed and cap != "butt":
        for corner, outward, edge in ((start[0], -along[0], -side[0]), (end[-1], along[-1], side[-1])):
            polygons.append(_cap(corner, outward, edge, half, cap))
    return torch.cat([_loop(polygon) for polygon in polygons])


def _dot(place: Tensor, half: Tensor, cap: Cap) -> Tensor:
    """A chain of no length: its two caps, as if it ran to the right (SVG 2, section 13.5.4)."""
    along, side = place.new_tensor([1.0, 0.0]), half * place.new_tensor([0.0, 1.0])
    ends = (_cap(place, -along, -side, half, cap), _cap(place, along, side, half, cap))
    return torch.cat([_loop(polygon) for polygon in ends])


def _wedges(
    corner: Tensor,
    along: Tensor,
    side: Tensor,
    before: Tensor,
    after: Tensor,
    half: Tensor,
    chain: Tensor,
    join: Join,
    miter_limit: float,
) -> list[Tensor]:
    """What fills the gaps between the boxes of neighbouring chords."""
    if not len(before):
        return []
    first, second, a, b = along[before], along[after], side[before], side[after]
    turn = torch.atan2(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0], (first * second).sum(1))
    angle = turn.detach()
    lengths = (chain[:, 1] - chain[:, 0]).detach().square().sum(1).sqrt()
    reach = half.detach() * torch.tan(angle.abs().clamp(max=3.0) / 2)
    smooth = (angle.abs() < _SMOOTH) & (reach < torch.minimum(lengths[before], lengths[after]))
    wedges = [
        torch.stack([corner, corner + b, corner + a], 1)[smooth],
        torch.stack([corner, corner - a, corner - b], 1)[smooth],
    ]
    sharp = torch.nonzero(~smooth & (angle.abs() > 1e-6))[:, 0]
    outer = -torch.sign(angle[sharp])[:, None]
    corner, turn, a, b = corner[sharp], turn[sharp], outer * a[sharp], outer * b[sharp]
    # The gap is on the outer side; seen from the corner it turns like the boxes when taken in this order.
    swap = outer[:, 0] > 0
    if join == "round":
        wedges += [_fan(corner[i], a[i], turn[i], half, reverse=bool(swap[i])) for i in range(len(sharp))]
        return wedges
    middle = a + b
    # miter length / width = 1 / cos(turn / 2); the tip lies on the bisector.
    cosine = torch.cos(turn / 2)
    pointed = (cosine.detach() * miter_limit >= 1) & (join == "miter")
    tip = corner + middle / (2 * cosine.square().clamp(min=1e-6))[:, None]
    long = torch.stack([corner, corner + a, tip, corner + b], 1)
    short = torch.stack([corner, corner + a, corner + b], 1)
    for polygon in (long[pointed & swap].flip(1), long[pointed & ~swap]):
        wedges.append(polygon)
    for polygon in (short[~pointed & swap].flip(1), short[~pointed & ~swap]):
        wedges.append(polygon)
    return wedges


def _fan(corner: Tensor, spoke: Tensor, turn: Tensor, half: Tensor, *, reverse: bool) -> Tensor:
    """A pie slice from `spoke`, turned by `turn` radians, as a polygon `1 n 2`."""
    step = 2 * math.acos(max(1 - TOLERANCE / max(float(half.detach()), TOLERANCE), 0.0)) or 1.0
    count = max(1, math.ceil(abs(float(turn.detach())) / min(step, 1.0)))
    angles = turn * torch.linspace(0, 1, count + 1, dtype=spoke.dtype, device=spoke.device)
    cos, sin = torch.cos(angles), torch.sin(angles)
    arc = torch.stack([cos * spoke[0] - sin * spoke[1], sin * spoke[0] + cos * spoke[1]], 1)
    polygon = torch.cat([corner[None], corner + arc])[None]
    return polygon.flip(1) if reverse else polygon


def _cap(corner: Tensor, outward: Tensor, edge: Tensor, half: Tensor, cap: Cap) -> Tensor:
    if cap == "round":
        return _fan(corner, edge, torch.full_like(half, -math.pi), half, reverse=True)
    tip = half * outward
    return torch.stack([corner + edge, corner - edge, corner - edge + tip, corner + edge + tip])[None]


def _joints(count: int, closed: bool) -> tuple[Tensor, Tensor]:
    before = torch.arange(count if closed else count - 1)
    return before, (before + 1) % count


def _loop(polygons: Tensor) -> Tensor:
    return torch.stack([polygons, polygons.roll(-1, 1)], 2).reshape(-1, 2, 2)


def runs(counts: Tensor) -> tuple[Tensor, Tensor]:
    """For runs of the given lengths laid end to end: the run and the place in it, of every entry."""
    owner = torch.repeat_interleave(counts)
    ends = counts.cumsum(0)
    return owner, torch.arange(len(owner), device=counts.device) - (ends - counts)[owner]
