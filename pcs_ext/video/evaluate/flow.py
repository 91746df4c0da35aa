"""Optical flow of clips by matching blocks: no weights, pixels in and displacements out.

Who judges clips must not be trained with what it judges; a sum of squared differences is trained with nothing.
"""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

REACH = 9
"""Largest displacement along either axis that is looked for, in pixels."""
_WINDOW = 9
"""Side of the blocks that are compared, in pixels."""
_STEP = 2
"""Pixels from one block to the next."""
_LEAST_TEXTURE = 0.03
"""Standard deviation of a block's brightness, in [-1, 1], from which on it can be found again."""
_MOST_RETURN = 1.0
"""How far from its start a block may come out, matched forward and back, in pixels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipFlow:
    """Where the points of each frame are in the next one, on a regular grid of points."""

    displacement: Tensor
    """`f-1 2 h w`: x to the right and y down, in pixels of the frames."""
    trusted: Tensor
    """`f-1 h w` bool: the point is there in both frames and was found again."""


@torch.no_grad()
def block_flow(frames: Tensor, *, reach: int = REACH) -> ClipFlow:
    """Flow between neighbouring frames: the displacement of least squared difference, refined to parts of pixels.

    Trusted are blocks with texture that come out where they began when they are matched back.

    Args:
        frames: `f 3 h w` in [-1, 1]; meant for sides of about 64 pixels.
        reach: largest displacement that is looked for, in pixels.
    """
    frames = frames.float()
    there, back = _matched(frames[:-1], frames[1:], reach), _matched(frames[1:], frames[:-1], reach)
    returned = there + _sampled(back, there / _STEP)
    trusted = (returned.norm(dim=1) <= _MOST_RETURN) & (_texture(frames[:-1]) >= _LEAST_TEXTURE)
    return ClipFlow(displacement=there, trusted=trusted)


def _matched(one: Tensor, other: Tensor, reach: int) -> Tensor:
    """For each block of `one` the displacement `n 2 h w` at which `other` looks most alike."""
    side = 2 * reach + 1
    padded = F.pad(other, [reach] * 4, mode="replicate")
    h, w = one.shape[-2:]
    costs = []
    for row in range(side):
        # A row of displacements at once: all of them would take hundreds of megabytes.
        shifted = torch.stack([padded[:, :, row : row + h, column : column + w] for column in range(side)], 1)
        costs.append(_block_mean((shifted - one[:, None]).square().mean(2)))
    cost = torch.cat(costs, 1)
    # Among equals the smallest displacement: a flat wall does not move.
    offset = torch.arange(-reach, reach + 1, device=one.device)
    cost = cost + 1e-5 * (offset[:, None].square() + offset.square()).flatten()[None, :, None, None]
    best = cost.argmin(1)
    row, column = best // side, best % side
    x = column - reach + _offset_of_least(cost, best, (column > 0) & (column < side - 1), 1)
    y = row - reach + _offset_of_least(cost, best, (row > 0) & (row < side - 1), side)
    return torch.stack([x, y], 1)


def _block_mean(values: Tensor) -> Tensor:
    """Means of `n c h w` over blocks, every `_STEP` pixels: along one axis, then along the other."""
    half = _WINDOW // 2
    columns = F.avg_pool2d(values, (_WINDOW, 1), (_STEP, 1), (half, 0), count_include_pad=False)
    return F.avg_pool2d(columns, (1, _WINDOW), (1, _STEP), (0, half), count_include_pad=False)


def _offset_of_least(cost: Tensor, best: Tensor, inside: Tensor, stride: int) -> Tensor:
    """Where the parabola through the least cost and its neighbours along one axis is lowest, in [-0.5, 0.5]."""
    step = stride * inside
    before, here, after = (cost.gather(1, (best + sign * step)[:, None])[:, 0] for sign in (-1, 0, 1))
    bend = before - 2 * here + after
    return torch.where(bend > 1e-9, 0.5 * (before - after) / bend.clamp_min(1e-9), 0.0).clamp(-0.5, 0.5)


def _sampled(field: Tensor, displacement: Tensor) -> Tensor:
    """A field `n 2 h w` at the places that displacements, in steps of its grid, lead to."""
    h, w = field.shape[-2:]
    rows, columns = torch.meshgrid(*(torch.arange(n, device=field.device) for n in (h, w)), indexing="ij")
    x, y = columns + displacement[:, 0], rows + displacement[:, 1]
    grid = torch.stack([(2 * x + 1) / w - 1, (2 * y + 1) / h - 1], -1)
    return F.grid_sample(field, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _texture(frames: Tensor) -> Tensor:
    gray = frames.mean(1, keepdim=True)
    return (_block_mean(gray.square()) - _block_mean(gray).square()).clamp_min(0).sqrt()[:, 0]
