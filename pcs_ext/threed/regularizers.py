"""What keeps fields tidy. Pure functions to 0-d losses, differentiable."""

import torch
from torch import Tensor

from pcs_ext.threed.render import RenderedRays


def orientation_loss(rendered: RenderedRays) -> Tensor:
    """Visible normals that look away from the camera, squared (Ref-NeRF, arXiv 2112.03907, eq. 11).

    Weights are held fixed, as DreamFusion does, or the loss would empty the field. Needs normals.
    """
    assert rendered.facing is not None, "render with normals for the orientation loss"
    return (rendered.weights.detach() * rendered.facing.clamp_min(0).square()).sum(-1).mean()


def opacity_loss(opacity: Tensor) -> Tensor:
    """mean sqrt(opacity^2 + 0.01): keeps empty space empty (DreamFusion, arXiv 2209.14988, app. A.2)."""
    return (opacity.square() + 0.01).sqrt().mean()


def entropy_loss(opacity: Tensor) -> Tensor:
    """Binary entropy of opacity, bits in [0, 1]: rays should hit or miss (Latent-NeRF, arXiv 2211.07600)."""
    p = opacity.clamp(1e-5, 1 - 1e-5)
    return -(p * p.log2() + (1 - p) * (1 - p).log2()).mean()


def distortion_loss(weights: Tensor, distances: Tensor, widths: Tensor) -> Tensor:
    """Spread of the weights along rays (mip-NeRF 360, arXiv 2111.12077, eq. 15), in time linear in the intervals.

    Args:
        weights, distances, widths: `n s`; distances are the intervals' middles, ascending.
    """
    mass, moment = weights.cumsum(-1) - weights, (weights * distances).cumsum(-1) - weights * distances
    between = 2 * (weights * (distances * mass - moment)).sum(-1)
    return (between + (weights.square() * widths).sum(-1) / 3).mean()


def total_variation(grid: Tensor) -> Tensor:
    """Mean squared difference of neighbours in a grid `1 c d h w`, over its three axes."""
    return torch.stack([grid.diff(dim=axis).square().mean() for axis in (2, 3, 4)]).sum()


def eikonal_loss(slopes: Tensor) -> Tensor:
    """Mean squared difference of a distance's slopes to 1 (Gropp et al. 2020, arXiv 2002.10099)."""
    return (slopes - 1).square().mean()
