"""Where a drawing is wrong: connected regions whose missing colour is the same, the worst first."""

import torch
import torch.nn.functional as F
from torch import Tensor

_COLORS = 24
_NOTICEABLE = 0.05


def largest_components(drawn: Tensor, target: Tensor, count: int, least_area: float) -> list[Tensor]:
    """Masks bool `h w` of the regions that are worth a path, by summed error, largest first.

    Pixels with an error above 5 % of the range are grouped by colour of the target (k-means), then by connection.

    Args:
        drawn: `3 h w` in [0, 1].
        target: `3 h w` in [0, 1].
        count: at most so many.
        least_area: smallest region, pixels.
    """
    error = (drawn - target).abs().mean(0)
    wrong = error > _NOTICEABLE
    if not count or not bool(wrong.any()):
        return []
    groups = torch.full(error.shape, -1, dtype=torch.long)
    groups[wrong] = _quantise(target[:, wrong].T)
    labels = connected(groups)
    labels[~wrong] = 0
    sizes = torch.bincount(labels.reshape(-1))
    weights = torch.bincount(labels.reshape(-1), weights=error.reshape(-1).double(), minlength=len(sizes))
    weights[(sizes < least_area)] = 0
    weights[0] = 0
    order = weights.argsort(descending=True, stable=True)[:count]
    return [labels == label for label in order.tolist() if weights[label] > 0]


def connected(groups: Tensor) -> Tensor:
    """Labels above 0 of the 4-connected regions of equal value of an int64 map `h w`, all at once by spreading the
    largest label of a region through it; runs of a row and of a column in one sweep each."""
    height, width = groups.shape
    labels = torch.arange(1, height * width + 1).view(height, width)
    while True:
        before = labels
        for axis in (1, 0):
            labels = _along(labels, groups, axis)
        if torch.equal(before, labels):
            return torch.unique(labels, return_inverse=True)[1] + 1


def _along(labels: Tensor, groups: Tensor, axis: int) -> Tensor:
    """Every run of equal value along an axis takes the largest label in it."""
    if axis == 0:
        return _along(labels.T, groups.T, 1).T.contiguous()
    starts = F.pad(groups[:, 1:] != groups[:, :-1], (1, 0), value=True).reshape(-1)
    runs = starts.long().cumsum(0) - 1
    largest = torch.zeros(int(runs[-1]) + 1, dtype=labels.dtype)
    largest = largest.scatter_reduce(0, runs, labels.reshape(-1), "amax")
    return largest[runs].view_as(labels)


def _quantise(colors: Tensor) -> Tensor:
    """Group `n` of each colour `n 3`: k-means from centres that are far from each other. Deterministic."""
    centres = colors.mean(0, keepdim=True)
    while len(centres) < _COLORS:
        distance = torch.cdist(colors, centres).amin(1)
        if float(distance.max()) < _NOTICEABLE:
            break
        centres = torch.cat([centres, colors[distance.argmax()][None]])
    nearest = torch.cdist(colors, centres).argmin(1)
    for _ in range(8):
        sums = torch.zeros_like(centres).index_add(0, nearest, colors)
        counts = torch.bincount(nearest, minlength=len(centres))[:, None]
        centres = torch.where(counts > 0, sums / counts.clamp(min=1), centres)
        nearest = torch.cdist(colors, centres).argmin(1)
    return nearest
