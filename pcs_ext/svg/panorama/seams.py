"""Where the ends of a panorama meet, and its poles, in numbers."""

from typing import Literal

import torch
from torch import Tensor


def seam_ratio(panorama: Tensor, *, over: Literal["median", "mean"] = "median") -> Tensor:
    """How much more the first and the last column differ than neighbours do, `b`; 1 is seamless.

    Mean absolute difference across the border over the median of those between all neighbouring columns, or over the
    mean all around, the border's own among them. Over the median, the outline of a thing that happens to stand at the
    border of a bare place counts as a seam; over the mean, a panorama has 1 on average over all places to cut it at.

    Args:
        panorama: `b c h w`.
        over: what of the neighbours' differences.
    """
    steps = (panorama[..., 1:] - panorama[..., :-1]).abs().mean((1, 2))
    across = (panorama[..., 0] - panorama[..., -1]).abs().mean((1, 2))
    around = torch.cat([steps, across[:, None]], 1)
    usual = steps.median(1).values if over == "median" else around.mean(1)
    return across / usual.clamp(min=1e-8)


def discontinuity(panorama: Tensor) -> Tensor:
    """The sideways Scharr response at the two columns of the border, over that at the four columns beside, `b`.

    After the Discontinuity Score of "Geometry Fidelity for Spherical Images" (arXiv 2407.18207), on the one border that
    an equirectangular picture has. 1 is seamless.

    Args:
        panorama: `b c h w`, at least 8 columns and 3 rows.
    """
    turned = panorama.roll(4, -1)[..., :8]
    change = turned[..., 2:] - turned[..., :-2]
    smooth = (3 * change[..., :-2, :] + 10 * change[..., 1:-1, :] + 3 * change[..., 2:, :]).abs().mean((1, 2)) / 16
    # Column 4 is the first, column 3 the last of the panorama; `smooth` begins at column 1.
    border, beside = smooth[:, 2:4].mean(1), smooth[:, [0, 1, 4, 5]].mean(1)
    return border / beside.clamp(min=1e-8)


def pole_spread(panorama: Tensor) -> Tensor:
    """Standard deviation along the top and the bottom row, averaged over both and the channels, `b`.

    Each of these rows is one point of the sphere, so that a true panorama has about 0 there.
    """
    return panorama[..., [0, -1], :].std(-1).mean((1, 2))
