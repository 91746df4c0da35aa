"""The differentiable rasteriser: a scene becomes an image, with gradients to points, colours, opacities and widths."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pcs_ext.svg.vector.coverage import Coverage, coverage
from pcs_ext.svg.vector.outline import flatten, stroke_edges
from pcs_ext.svg.vector.scene import Paint, Scene, Stroke, Subpath

_MOST_PIXELS = 64_000_000


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Layers:
    """A scene cut into single coverages: fills and strokes in drawing order."""

    coverage: Coverage
    paints: list[Paint]
    owners: list[int]
    """Per layer: the index of its path."""


def render(
    scene: Scene, height: int, width: int, *, background: tuple[float, float, float] | None = (1.0, 1.0, 1.0)
) -> Tensor:
    """Draw a scene: `3 h w` in [0, 1], sRGB values composited as they are, as browsers do.

    Args:
        scene: with tensors of one dtype and device.
        height: pixels.
        width: pixels.
        background: sRGB in [0, 1]; None gives `4 h w`, premultiplied colour and alpha.

    Differentiable in points, colours, opacities and stroke widths. Pixels where two outlines cross are approximate
    (see `coverage`).
    """
    layers = layers_of(scene, height, width)
    dtype, device = _kind(scene)
    if background is None:
        canvas = torch.zeros(4, height, width, dtype=dtype, device=device)
    else:
        canvas = torch.tensor(background, dtype=dtype, device=device)[:, None, None].expand(3, height, width)
    if not layers.paints:
        return canvas.clone()
    colors = torch.stack([paint.color for paint in layers.paints])
    if background is None:
        colors = torch.cat([colors, torch.ones_like(colors[:, :1])], 1)
    opacities = torch.stack([paint.opacity for paint in layers.paints])
    cover = layers.coverage
    image: Any = _Composite.apply(cover.values, colors, opacities, canvas, cover.boxes, cover.offsets)
    return image


def layers_of(scene: Scene, height: int, width: int) -> Layers:
    """Coverage of every fill and stroke on a canvas of that many pixels, in drawing order."""
    assert 0 < height * width <= _MOST_PIXELS, f"{width} x {height} pixels"
    subpaths = [subpath for path in scene.paths for subpath in path.subpaths]
    paints: list[Paint] = []
    owners: list[int] = []
    evenodd: list[bool] = []
    fills: list[int] = []
    strokes: list[tuple[int, int, Stroke]] = []
    at = 0
    for index, path in enumerate(scene.paths):
        drawn = range(at, at + len(path.subpaths))
        at += len(path.subpaths)
        fills += [len(paints) if path.fill else -1] * len(drawn)
        if path.fill:
            paints.append(path.fill)
            evenodd.append(path.rule == "evenodd")
            owners.append(index)
        if path.stroke:
            strokes += [(place, len(paints), path.stroke) for place in drawn]
            paints.append(path.stroke.paint)
            evenodd.append(False)
            owners.append(index)
    if not subpaths or not paints:
        return Layers(coverage=Coverage(values=torch.zeros(0), boxes=[], offsets=[]), paints=[], owners=[])
    edges, layers = _edges(scene, subpaths, fills, strokes, height, width)
    rules = torch.tensor(evenodd, device=edges.device)
    return Layers(coverage=coverage(edges, layers, rules, height, width), paints=paints, owners=owners)


def _edges(
    scene: Scene,
    subpaths: Sequence[Subpath],
    fills: list[int],
    strokes: list[tuple[int, int, Stroke]],
    height: int,
    width: int,
) -> tuple[Tensor, Tensor]:
    """All edges `e 2 2` in pixels and their layers `e`."""
    scale, right, down = scene.to_pixels(height, width)
    points = torch.cat([subpath.points for subpath in subpaths])
    points = points * scale + torch.tensor([right, down], dtype=points.dtype, device=points.device)
    index, owner, closing = _indices(subpaths, points.device)
    segments = points.index_select(0, index.reshape(-1)).view(-1, 4, 2)
    layer_of = torch.tensor(fills, device=points.device)
    shown = layer_of[owner] >= 0
    chords, cubic = flatten(segments if bool(shown.all()) else segments[shown])
    found, layers = [chords], [layer_of[owner[shown]][cubic]]
    straight, ends = points[closing[:, :2].reshape(-1)].view(-1, 2, 2), closing[:, 2]
    filled = layer_of[ends] >= 0
    found.append(straight[filled])
    layers.append(layer_of[ends[filled]])
    firsts = torch.tensor([0] + [subpath.segments for subpath in subpaths]).cumsum(0).tolist()
    for place, layer, stroke in strokes:
        chain, closed = segments[firsts[place] : firsts[place + 1]], subpaths[place].closed
        outline = stroke_edges(chain, closed, stroke.width * scale, stroke.cap, stroke.join, stroke.miter_limit)
        found.append(outline)
        layers.append(torch.full((len(outline),), layer, device=points.device))
    return torch.cat(found), torch.cat(layers)


def _indices(subpaths: Sequence[Subpath], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Control points of every cubic `s 4`, its subpath `s`, and how open subpaths close for filling `o 3`."""
    counts = torch.tensor([subpath.segments for subpath in subpaths], device=device)
    sizes = torch.tensor([len(subpath.points) for subpath in subpaths], device=device)
    closed = torch.tensor([subpath.closed for subpath in subpaths], device=device)
    firsts = sizes.cumsum(0) - sizes
    owner = torch.repeat_interleave(counts)
    step = torch.arange(len(owner), device=device) - (counts.cumsum(0) - counts)[owner]
    index = (firsts[owner] + 3 * step)[:, None] + torch.arange(4, device=device)
    wraps = closed[owner] & (step == counts[owner] - 1)
    index[:, 3] = torch.where(wraps, firsts[owner], index[:, 3])
    ends = torch.nonzero(~closed)[:, 0]
    return index, owner, torch.stack([firsts[ends] + sizes[ends] - 1, firsts[ends], ends], 1)


def _kind(scene: Scene) -> tuple[torch.dtype, torch.device]:
    for path in scene.paths:
        points = path.subpaths[0].points
        return points.dtype, points.device
    return torch.float32, torch.device("cpu")


class _Composite(torch.autograd.Function):
    """Layers over a background, each touching its own box only: canvas = canvas (1 - a) + a colour."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, colors: Tensor, opacities: Tensor, canvas: Tensor, boxes: Any, offsets: Any):
        canvas = canvas.clone()
        before = []
        for layer, (top, left, height, width) in enumerate(boxes):
            view = canvas[:, top : top + height, left : left + width]
            alpha = _window(values, boxes, offsets, layer) * opacities[layer]
            toward = colors[layer, :, None, None] - view
            before.append(toward)
            view.addcmul_(toward, alpha)
        ctx.save_for_backward(values, colors, opacities, *before)
        ctx.boxes, ctx.offsets = boxes, offsets
        return canvas

    @staticmethod
    def backward(ctx: Any, *outputs: Any):
        values, colors, opacities, *before = ctx.saved_tensors
        flow = outputs[0].clone()
        to_values = torch.zeros_like(values)
        to_colors, to_opacities = torch.zeros_like(colors), torch.zeros_like(opacities)
        for layer in range(len(before) - 1, -1, -1):
            top, left, height, width = ctx.boxes[layer]
            view = flow[:, top : top + height, left : left + width]
            cover = _window(values, ctx.boxes, ctx.offsets, layer)
            through = (view * before[layer]).sum(0)
            _window(to_values, ctx.boxes, ctx.offsets, layer).copy_(through * opacities[layer])
            to_opacities[layer] = (through * cover).sum()
            share = view * (cover * opacities[layer])
            to_colors[layer] = share.sum((1, 2))
            view.sub_(share)
        return to_values, to_colors, to_opacities, flow, None, None


def _window(values: Tensor, boxes: Any, offsets: Any, layer: int) -> Tensor:
    _, _, height, width = boxes[layer]
    start = offsets[layer]
    return values[start : start + height * (width + 1)].view(height, width + 1)[:, :width]
