"""A rasteriser by signed distances, the peer of `benchmarks.rasterizer`: how paths are often made differentiable.

Every pixel of a path's padded box looks for its nearest chord, without gradients; the distance to that one is computed
again with gradients, its sign is that of the winding number, and coverage is the distance plus a half, clamped. Paths
are painted one over another. The chords are those that the suite's own rasteriser draws.
"""

import torch
from torch import Tensor

from pcs_ext.svg.vector.outline import flatten
from pcs_ext.svg.vector.scene import Scene

_MARGIN = 1


def draw_by_distances(scene: Scene, side: int) -> Tensor:
    """Filled closed paths, one subpath each, on white: `3 h w` in [0, 1]. The scene is as large as the canvas."""
    canvas = torch.ones(3, side, side)
    for path in scene.paths:
        assert path.fill is not None, "strokes are not drawn"
        points = path.subpaths[0].points
        chords = flatten(torch.cat([points, points[:1]]).unfold(0, 4, 3).transpose(1, 2))[0]
        low = (chords.detach().amin((0, 1)) - _MARGIN).floor().clamp(0, side).int().tolist()
        high = (chords.detach().amax((0, 1)) + _MARGIN).ceil().clamp(0, side).int().tolist()
        if min(high[0] - low[0], high[1] - low[1]) <= 0:
            continue
        columns, rows = (torch.arange(low[axis], high[axis]) + 0.5 for axis in (0, 1))
        pixels = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), -1)
        alpha = (_signed(pixels.reshape(-1, 2), chords) + 0.5).clamp(0, 1).view(pixels.shape[:2]) * path.fill.opacity
        box = canvas[:, low[1] : high[1], low[0] : high[0]]
        canvas = canvas.clone()
        canvas[:, low[1] : high[1], low[0] : high[0]] = torch.lerp(box, path.fill.color[:, None, None], alpha)
    return canvas


def _signed(pixels: Tensor, chords: Tensor) -> Tensor:
    """Distances `n` of pixels `n 2` to the nearest of chords `e 2 2`, above 0 inside."""
    with torch.no_grad():
        nearest = _squares(pixels[:, None], chords[None]).argmin(1)
        inside = _winding(pixels, chords) != 0
    distance = (_squares(pixels, chords[nearest]) + 1e-12).sqrt()
    return torch.where(inside, distance, -distance)


def _squares(pixels: Tensor, chords: Tensor) -> Tensor:
    """Squared distances; by coordinates, as sums over an axis of two are slow."""
    (x, y), (x0, y0), (x1, y1) = (both.unbind(-1) for both in (pixels, chords[..., 0, :], chords[..., 1, :]))
    right, down, x, y = x1 - x0, y1 - y0, x - x0, y - y0
    share = ((x * right + y * down) / (right * right + down * down).clamp_min(1e-12)).clamp(0, 1)
    return (x - share * right).square() + (y - share * down).square()


def _winding(pixels: Tensor, chords: Tensor) -> Tensor:
    """How often chords turn around pixels, `n`: crossings of the ray to the right, with their directions."""
    x, y = pixels[:, :1], pixels[:, 1:]
    (x0, y0), (x1, y1) = chords[:, 0].T, chords[:, 1].T
    up, down = (y0 <= y) & (y1 > y), (y1 <= y) & (y0 > y)
    left = (x1 - x0) * (y - y0) - (x - x0) * (y1 - y0)
    return (up & (left > 0)).sum(1) - (down & (left < 0)).sum(1)
