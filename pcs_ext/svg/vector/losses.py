"""Losses on drawn images and on control points, each a plain differentiable function that returns a scalar."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.svg.vector.scene import Subpath

_DOT = 1e-9
"""Sum of squared radii of control points that are all one, square pixels."""


def image_loss(drawn: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
    """Mean squared difference of two images `c h w` in [0, 1].

    Args:
        drawn: by the rasteriser.
        target: what it should be.
        weight: of each pixel `h w`, at least 0; the mean is over the weight.
    """
    square = (drawn - target).square().mean(0)
    return square.mean() if weight is None else (square * weight).sum() / weight.sum().clamp(min=1e-12)


def multi_scale_loss(drawn: Tensor, target: Tensor, levels: int = 4) -> Tensor:
    """Mean of `image_loss` over an image pyramid, each level half the size: shapes pull at targets they do not touch.

    Args:
        drawn: `c h w` in [0, 1].
        target: `c h w` in [0, 1].
        levels: sizes, the full one included; fewer where a side would fall below 4 pixels.
    """
    losses = [image_loss(drawn, target)]
    while len(losses) < levels and min(drawn.shape[-2:]) >= 8:
        drawn, target = (F.avg_pool2d(image[None], 2)[0] for image in (drawn, target))
        losses.append(image_loss(drawn, target))
    return torch.stack(losses).mean()


def smoothness_loss(subpath: Subpath) -> Tensor:
    """Laplacian smoothness: mean squared distance of each control point from the middle of its neighbours, relative to
    the mean squared distance between neighbours, so that scale and position do not matter."""
    points = subpath.points
    if subpath.closed:
        before, after = points.roll(1, 0), points.roll(-1, 0)
    else:
        before, points, after = points[:-2], points[1:-1], points[2:]
    step = (after - points).square().sum(1).mean().detach().clamp(min=1e-12)
    return (points - (before + after) / 2).square().sum(1).mean() / step


def crossing_loss(points: Tensor) -> Tensor:
    """LIVE's Xing loss (arXiv 2206.04655, equations 3 to 5): cubics whose handles cross each other.

    With directions a b, b c and c d of the three legs of a cubic, the turn from the first to the second says on which
    side the third should be; the sine of the angle from the first to the third is punished where it is on the other.

    Args:
        points: control points `s 4 2`.

    Returns:
        The mean over cubics, in [0, 1].
    """
    legs = points[:, 1:] - points[:, :-1]
    first, second, third = (legs / legs.square().sum(-1, keepdim=True).clamp(min=1e-12).sqrt()).unbind(1)
    left = (_cross(first, second) > 0).to(points.dtype)
    sine = _cross(first, third)
    return (left * F.relu(-sine) + (1 - left) * F.relu(sine)).mean()


def rigidity_loss(points: Tensor, original: Tensor) -> Tensor:
    """What is left of a change of shape after the best similarity (Procrustes with scale), relative to the size.

    Args:
        points: `n 2`, at least 2.
        original: `n 2`.

    Returns:
        Mean squared distance over the mean squared radius of the original; 0 for moved, turned and scaled copies. Of a
        dot the sum of squared distances.
    """
    now = torch.view_as_complex((points - points.mean(0)).contiguous())
    then = torch.view_as_complex((original - original.mean(0)).contiguous())
    power = torch.view_as_real(then).square().sum()
    # A dot has no size that its change could be relative to.
    power = torch.where(power > _DOT, power, 1.0)
    turn = (then.conj() * now).sum() / power
    rest = torch.view_as_real(now - turn * then)
    return rest.square().sum() / power


def minimum_area_loss(subpath: Subpath, least: float) -> Tensor:
    """How far the area of a closed shape is below `least` (square units), as a share of it; 0 above.

    The area is exact for cubics (Green's theorem); parts that turn the other way count negative, the sum as positive.
    """
    area = signed_area(cubics(subpath)).abs()
    return F.relu(1 - area / least)


def cubics(subpath: Subpath) -> Tensor:
    """Control points `s 4 2` of every cubic of a chain."""
    points = torch.cat([subpath.points, subpath.points[:1]]) if subpath.closed else subpath.points
    return torch.stack([points[i : len(points) - 3 + i : 3] for i in range(4)], 1)


def signed_area(points: Tensor) -> Tensor:
    """Area inside a closed chain of cubics `s 4 2`, positive where x turns towards y."""
    a, b, c, d = points.unbind(1)
    terms = 6 * _cross(a, b) + 3 * _cross(a, c) + _cross(a, d) + 3 * _cross(b, c) + 3 * _cross(b, d) + 6 * _cross(c, d)
    return terms.sum() / 20


def _cross(a: Tensor, b: Tensor) -> Tensor:
    return a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
