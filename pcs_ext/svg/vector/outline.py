"""From cubics to straight edges: adaptive flattening, and the outlines of strokes."""

import math

import torch
from torch import Tensor

from pcs_ext.svg.vector.scene import Cap, Join

TOLERANCE = 0.02
"""Largest distance between a curve and its chords, pixels."""
_SMOOTH = 0.5
"""Turns below this angle (radians) are bends of a curve, not corners."""
_STRAIGHT = 0.01
"""Turns below this angle (radians) are how one curve goes on in the next."""
_MOST_CHORDS = 2048


def chord_counts(segments: Tensor, tolerance: float = TOLERANCE, bend: float | None = None) -> Tensor:
    """Chords per cubic so that none is further than `tolerance` from the curve (Wang's bound), `s` of int64.

    Args:
        segments: control points `s 4 2` in pixels.
        tolerance: pixels.
        bend: largest mean turn from chord to chord, radians; None: any.
    """
    points = segments.detach()
    second = points[:, :-2] - 2 * points[:, 1:-1] + points[:, 2:]
    reach = second.square().sum(-1).amax(-1).sqrt()
    counts = (reach * (0.75 / tolerance)).sqrt()
    if bend is not None:
        counts = torch.maximum(counts, _turning(points) / bend)
    return counts.ceil().clamp(1, _MOST_CHORDS).long()


def _turning(points: Tensor) -> Tensor:
    """How far the legs of control polygons `s 4 2` turn, radians `s`: at least as far as their curves."""
    legs = points[:, 1:] - points[:, :-1]
    first, middle, last = (_turn(legs[:, i], legs[:, j]).abs() for i, j in ((0, 1), (1, 2), (0, 2)))
    return torch.maximum(first + middle, last)


def _turn(first: Tensor, second: Tensor) -> Tensor:
    """Angle from directions `n 2` to others, radians in [-pi, pi]."""
    return torch.atan2(first[:, 0] * second[:, 1] - first[:, 1] * second[:, 0], (first * second).sum(1))


def flatten(segments: Tensor, tolerance: float = TOLERANCE, bend: float | None = None) -> tuple[Tensor, Tensor]:
    """Chords `e 2 2` (start and end) of cubics, and the cubic `e` that each belongs to. Differentiable in the points.

    Neighbouring chords share their end points exactly, so closed chains stay closed.

    Args:
        segments: control points `s 4 2` in pixels.
        tolerance: pixels.
        bend: as in `chord_counts`.
    """
    counts = chord_counts(segments, tolerance, bend)
    owner, step = runs(counts + 1)
    t = (step / counts[owner]).to(segments.dtype)[:, None]
    u = 1 - t
    weights = torch.stack([u * u * u, 3 * u * u * t, 3 * u * t * t, t * t * t], 1)
    vertices = (segments.index_select(0, owner) * weights).sum(1)
    starts = torch.nonzero(step < counts[owner])[:, 0]
    chords = torch.stack([vertices.index_select(0, starts), vertices.index_select(0, starts + 1)], 1)
    return chords, owner[starts]


def stroke_edges(segments: Tensor, closed: bool, width: Tensor, cap: Cap, join: Join, miter_limit: float) -> Tensor:
    """Directed edges `e 2 2` of the outline of a stroked chain; their non-zero winding is the stroke.

    A box per chord, a wedge per joint, caps. At corners boxes overlap; at the bends of a curve the inner overlap is
    taken off again, so that there the outline is the curve's two parallels. Where a stroke is wider than its curve is
    round this leaves what browsers leave, a hole in a circle too; SVG 2 allows that and filling it.

    Args:
        segments: cubics `s 4 2` in pixels, each starting where the last ended.
        closed: whether the last ends where the first starts.
        width: scalar, pixels.
        cap: of open chains.
        join: at corners.
        miter_limit: longest miter in widths, above it corners are cut.
    """
    half = width / 2
    # Finer where the stroke is wide: its outer side is that much longer than its middle.
    whole, cubic = flatten(segments, TOLERANCE / 4, _arc_step(half))
    kept = (whole[:, 1] - whole[:, 0]).detach().abs().amax(1) > 1e-9
    chain, cubic = whole[kept], cubic[kept]
    if not len(chain):
        return chain if cap == "butt" or not len(whole) else _dot(whole[0, 0], half, cap)
    chain, along, cubic = _with_tangents(chain, cubic, segments)
    side = half * torch.stack([-along[:, 1], along[:, 0]], 1)
    start, end = chain.unbind(1)
    polygons = [torch.stack([start + side, start - side, end - side, end + side], 1)]
    polygons += _wedges(chain, along, side, _joints(cubic, closed), half, join, miter_limit)
    if not closed and cap != "butt":
        for corner, outward, edge in ((start[0], -along[0], -side[0]), (end[-1], along[-1], side[-1])):
            polygons.append(_cap(corner, outward, edge, half, cap))
    return torch.cat([_loop(polygon) for polygon in polygons])


def _arc_step(half: Tensor) -> float:
    """Angle of a chord that is `TOLERANCE` from an arc of that radius, radians in (0, 1]."""
    radius = max(float(half.detach()), TOLERANCE)
    return min(2 * math.acos(1 - TOLERANCE / radius), 1.0)


def _dot(place: Tensor, half: Tensor, cap: Cap) -> Tensor:
    """A chain of no length: its two caps, as if it ran to the right (SVG 2, section 13.5.4)."""
    along, side = place.new_tensor([1.0, 0.0]), half * place.new_tensor([0.0, 1.0])
    ends = (_cap(place, -along, -side, half, cap), _cap(place, along, side, half, cap))
    return torch.cat([_loop(polygon) for polygon in ends])


def _with_tangents(chain: Tensor, cubic: Tensor, segments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Chords, their directions and their cubics; curves of several chords begin and end with one of no length along
    their tangent, so that ends and corners stand as the curve does and not as its chords."""
    curves = torch.nonzero(torch.bincount(cubic, minlength=len(segments)) > 1)[:, 0]
    if not len(curves):
        return chain, _unit(chain[:, 1] - chain[:, 0]), cubic
    points = segments[curves]
    first = _unit(_longer(points[:, 1:] - points[:, :1]))
    last = _unit(_longer(points[:, 3:] - points[:, [2, 1, 0]]))
    order = torch.cat([3 * cubic + 1, 3 * curves, 3 * curves + 2]).argsort(stable=True)
    chords = torch.cat([chain, points[:, [0, 0]], points[:, [3, 3]]])
    along = torch.cat([_unit(chain[:, 1] - chain[:, 0]), first, last])
    return chords[order], along[order], torch.cat([cubic, curves, curves])[order]


def _longer(legs: Tensor) -> Tensor:
    """The first of legs `n 3 2` that has a length, `n 2`: handles may lie on their ends."""
    place = (legs.detach().abs().amax(2) > 1e-9).long().argmax(1)
    return legs[torch.arange(len(legs), device=legs.device), place]


def _unit(legs: Tensor) -> Tensor:
    return legs / legs.square().sum(1, keepdim=True).sqrt().clamp(min=1e-12)


def _joints(cubic: Tensor, closed: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Where chords of given cubics meet: the chord before, the one after, and whether it is within one curve."""
    count = len(cubic)
    before = torch.arange(count if closed else count - 1, device=cubic.device)
    after = (before + 1) % count
    return before, after, (cubic[before] == cubic[after]) & (after > before)


def _wedges(
    chain: Tensor,
    along: Tensor,
    side: Tensor,
    joints: tuple[Tensor, Tensor, Tensor],
    half: Tensor,
    join: Join,
    miter_limit: float,
) -> list[Tensor]:
    """What fills the gaps between the boxes of neighbouring chords, and takes their overlap off at bends."""
    before, after, within = joints
    if not len(before):
        return []
    corner, a, b = chain[after, 0], side[before], side[after]
    turn = _turn(along[before], along[after])
    angle = turn.detach()
    lengths = (chain[:, 1] - chain[:, 0]).detach().square().sum(1).sqrt()
    reach = half.detach() * torch.tan(angle.abs().clamp(max=3.0) / 2)
    smooth = (angle.abs() < _SMOOTH) & (within | (reach < torch.minimum(lengths[before], lengths[after])))
    smooth = smooth | (angle.abs() < _STRAIGHT)
    wedges = [
        torch.stack([corner, corner + b, corner + a], 1)[smooth],
        torch.stack([corner, corner - a, corner - b], 1)[smooth],
    ]
    if bool(smooth.all()):
        return wedges
    # The gap is on the outer side; seen from the corner it turns like the boxes when taken in this order.
    outer = -torch.sign(angle)[:, None]
    a, b, swap = outer * a, outer * b, outer[:, 0] > 0
    # A curve may turn at a point; whatever the joins are, it is round there.
    rounded = ~smooth if join == "round" else ~smooth & within
    for reverse in (True, False):
        some = torch.nonzero(rounded & (swap if reverse else ~swap))[:, 0]
        if len(some):
            wedges.append(_fans(corner[some], a[some], turn[some], half, reverse=reverse))
    sharp = torch.nonzero(~smooth & ~rounded)[:, 0]
    if not len(sharp):
        return wedges
    return wedges + _tips(corner[sharp], a[sharp], b[sharp], turn[sharp], swap[sharp], miter_limit * (join == "miter"))


def _tips(corner: Tensor, a: Tensor, b: Tensor, turn: Tensor, swap: Tensor, miter_limit: float) -> list[Tensor]:
    """Miters at corners `j 2` between spokes to the outer side, cut straight beyond the limit; `swap`: turned over."""
    # miter length / width = 1 / cos(turn / 2); the tip lies on the bisector.
    cosine = torch.cos(turn / 2)
    pointed = cosine.detach() * miter_limit >= 1
    tip = corner + (a + b) / (2 * cosine.square().clamp(min=1e-6))[:, None]
    long = torch.stack([corner, corner + a, tip, corner + b], 1)
    short = torch.stack([corner, corner + a, corner + b], 1)
    return [
        long[pointed & swap].flip(1),
        long[pointed & ~swap],
        short[~pointed & swap].flip(1),
        short[~pointed & ~swap],
    ]


def _fans(corner: Tensor, spoke: Tensor, turn: Tensor, half: Tensor, *, reverse: bool) -> Tensor:
    """Pie slices about one or more corners `j 2`, from spokes `j 2`, turned by `turn` radians `j`: polygons `j n 2`."""
    count = max(1, math.ceil(float(turn.detach().abs().max()) / _arc_step(half)))
    angles = turn[:, None] * torch.linspace(0, 1, count + 1, dtype=spoke.dtype, device=spoke.device)
    (x, y), cos, sin = spoke[:, :, None].unbind(1), torch.cos(angles), torch.sin(angles)
    arc = torch.stack([cos * x - sin * y, sin * x + cos * y], 2)
    polygons = torch.cat([corner[:, None], corner[:, None] + arc], 1)
    return polygons.flip(1) if reverse else polygons


def _cap(corner: Tensor, outward: Tensor, edge: Tensor, half: Tensor, cap: Cap) -> Tensor:
    if cap == "round":
        return _fans(corner[None], edge[None], torch.full_like(half, -math.pi)[None], half, reverse=True)
    tip = half * outward
    return torch.stack([corner + edge, corner - edge, corner - edge + tip, corner + edge + tip])[None]


def _loop(polygons: Tensor) -> Tensor:
    return torch.stack([polygons, polygons.roll(-1, 1)], 2).reshape(-1, 2, 2)


def runs(counts: Tensor) -> tuple[Tensor, Tensor]:
    """For runs of the given lengths laid end to end: the run and the place in it, of every entry."""
    owner = torch.repeat_interleave(counts)
    ends = counts.cumsum(0)
    return owner, torch.arange(len(owner), device=counts.device) - (ends - counts)[owner]
