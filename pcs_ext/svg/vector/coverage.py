"""Exact-area coverage: which share of every pixel lies inside a set of directed edges, as a differentiable function.

Every edge is cut at pixel rows and columns; each piece adds its signed height, split by where it lies in its pixel, to
an accumulator whose running sum along the row is the area-averaged winding number (the accumulation of Levien's
font-rs). Only the box around each layer's edges is stored, so cost follows the drawn area.

Known limit: where edges of opposite or double winding meet inside one pixel the average of the winding is folded, not
the winding itself; such pixels (crossings) can be wrong, all others are exact for the given chords.
"""

import dataclasses

import torch
from torch import Tensor

from pcs_ext.svg.vector.outline import runs


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Coverage:
    """Coverages of several layers, each in its own box, packed row by row."""

    values: Tensor
    """In [0, 1], `n`. A box of w columns takes w + 1 entries per row; the last is padding."""
    boxes: list[tuple[int, int, int, int]]
    """Per layer: top, left, height, width in pixels; inside the canvas; 0 by 0 where nothing shows."""
    offsets: list[int]
    """Per layer: where its entries begin."""

    def layer(self, index: int) -> Tensor:
        """Coverage `h w` in the layer's box."""
        _, _, height, width = self.boxes[index]
        flat = self.values[self.offsets[index] : self.offsets[index] + height * (width + 1)]
        return flat.view(height, width + 1)[:, :width]


def coverage(edges: Tensor, layers: Tensor, evenodd: Tensor, height: int, width: int) -> Coverage:
    """Share of every pixel that lies inside each layer. Differentiable in the edges.

    Args:
        edges: directed edges `e 2 2` (start and end, x and y) in pixels; closed loops within every layer.
        layers: int64 `e`, the layer of each edge.
        evenodd: bool `l`: the fill rule of each layer, else non-zero.
        height: of the canvas, pixels.
        width: of the canvas, pixels.
    """
    boxes = _boxes(edges.detach(), layers, len(evenodd), height, width)
    sizes = boxes[:, 2] * (boxes[:, 3] + 1)
    offsets = sizes.cumsum(0) - sizes
    total = int(sizes.sum())
    values = _winding(edges, layers, boxes, offsets, total)
    starts = _row_starts(boxes, offsets)
    # Rows sum to zero up to rounding: start each from its own zero so that errors do not add up over the buffer.
    lengths = torch.diff(starts, append=starts.new_tensor([total]))
    before = torch.cat([values.new_zeros(1), values])[starts]
    winding = (values - torch.repeat_interleave(before, lengths)).abs()
    if bool(evenodd.any()):
        folded = 1 - (1 - winding.remainder(2)).abs()
        inside = torch.where(torch.repeat_interleave(evenodd, sizes), folded, winding.clamp(max=1))
    else:
        inside = winding.clamp(max=1)
    return Coverage(values=inside, boxes=[tuple(box) for box in boxes.tolist()], offsets=offsets.tolist())


def _boxes(edges: Tensor, layers: Tensor, count: int, height: int, width: int) -> Tensor:
    """Top, left, height and width `l 4` of the part of the canvas that each layer can touch."""
    index = layers[:, None].expand(-1, 2)
    low = edges.new_full((count, 2), torch.inf).scatter_reduce(0, index, edges.amin(1), "amin")
    high = edges.new_full((count, 2), -torch.inf).scatter_reduce(0, index, edges.amax(1), "amax")
    limit = torch.tensor([width, height], dtype=edges.dtype, device=edges.device)
    first = low.floor().clamp(min=torch.zeros_like(limit), max=limit).long()
    last = high.ceil().clamp(min=torch.zeros_like(limit), max=limit).long()
    extent = (last - first).clamp(min=0)
    extent = torch.where((extent > 0).all(1, keepdim=True), extent, 0)
    return torch.stack([first[:, 1], first[:, 0], extent[:, 1], extent[:, 0]], 1)


def _winding(edges: Tensor, layers: Tensor, boxes: Tensor, offsets: Tensor, total: int) -> Tensor:
    """Running sum over the whole buffer, `total`."""
    flat = edges.detach()
    level = flat[:, 0, 1] == flat[:, 1, 1]
    # A level edge covers nothing, but its ends have gradients.
    idle = torch.zeros_like(level) if edges.requires_grad else level
    keep = torch.nonzero((boxes[layers, 2] > 0) & ~idle)[:, 0]
    edges, layers = edges.index_select(0, keep), layers[keep]
    box = boxes[layers]
    local = edges - box[:, [1, 0]].to(edges.dtype)[:, None]
    (x0, y0), (x1, y1) = local[:, 0].unbind(1), local[:, 1].unbind(1)
    source, row, enter, leave = _cells(y0, y1, box[:, 2])
    inside = torch.nonzero((row >= 0) & (row < box[source, 2]))[:, 0]
    source, row, enter, leave = source[inside], row[inside], enter[inside], leave[inside]
    x, run = x0.index_select(0, source), (x1 - x0).index_select(0, source)
    rise = (y1 - y0).index_select(0, source) * (leave - enter)
    begin, end = x + enter * run, x + leave * run
    columns = box[source, 3]
    piece, column, enter, leave = _cells(begin, end, columns)
    columns = columns[piece]
    share = leave - enter
    signed = rise.index_select(0, piece) * share
    middle = begin.index_select(0, piece) + (end - begin).index_select(0, piece) * ((enter + leave) / 2)
    # Left of the box a piece counts in full for the first column, right of it for none.
    beyond = (column < 0) | (column >= columns)
    weight = torch.where(beyond, 0.0, middle - column)
    place = offsets[layers[source]][piece] + row[piece] * (columns + 1) + column.clamp(min=0)
    late = signed * weight
    buffer = edges.new_zeros(total + 1)
    buffer = buffer.index_add(0, torch.cat([place, place + 1]), torch.cat([signed - late, late]))
    return buffer[:total].cumsum(0)


def _cells(start: Tensor, end: Tensor, size: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cut intervals at whole numbers: per piece its interval, its cell, and its begin and end (shares in [0, 1]).

    Cells before 0 are all called -1, cells from `size` on all `size`. A border's share is computed once for the piece
    before it and the one behind it, so that the pieces of an interval always add up to it.
    """
    a, b = start.detach(), end.detach()
    limit = size.to(a.dtype)
    first = torch.minimum(a.floor().clamp(min=-1), limit)
    last = torch.minimum(b.floor().clamp(min=-1), limit)
    counts = (last - first).abs().long() + 1
    owner, step = runs(counts)
    forward = (last >= first)[owner]
    cell = first.long()[owner] + torch.where(forward, step, -step)
    ends = step == counts[owner] - 1
    border = (cell + forward.long()).to(a.dtype)
    length = torch.where(a == b, 1.0, end - start).index_select(0, owner)
    share = ((border - start.index_select(0, owner)) / length).clamp(0, 1)
    leave = torch.where(ends, 1.0, share)
    enter = torch.where(step == 0, 0.0, torch.cat([leave[:1], leave[:-1]]))
    return owner, cell, enter, leave


def _row_starts(boxes: Tensor, offsets: Tensor) -> Tensor:
    layer, row = runs(boxes[:, 2])
    return offsets[layer] + row * (boxes[layer, 3] + 1)
