"""StitchDiffusion's canvas: twice as wide as the panorama, periodic, cropped in the middle.

Wang et al., WACV 2024, arXiv 2310.18840. The canvas is A|B|C|D, each half a panorama wide. Before every step B becomes
D and C becomes A; the block D|A, which joins the ends, counts twice beside nine windows; in the end the middle B|C is
the panorama: its left end was denoised to the right of A, its right end to the left of D, as if they touched. The
released listing copies in passing, by writing into a slice; without it the seam is as bad as MultiDiffusion's. It also
denoises the block twice, and since the canvas repeats itself the first and the fifth of the nine windows, A|D and D|A,
once more as the ninth and as the block. Here whatever is the same is denoised once and counts as often: eight windows
a step instead of eleven.
"""

import dataclasses

import torch
from torch import Tensor

from pcs_ext.svg.panorama.windows import WindowPlan, plan_windows

_WINDOWS = 9
_STITCH_COUNTS = 2.0


def stitch_plan(width: int) -> WindowPlan:
    """Windows on the canvas of a panorama `width` cells wide: nine evenly spaced ones, and D|A, which counts twice."""
    plan = plan_windows(2 * width, width, max(1, width // (_WINDOWS - 1)), wrap=False)
    counts = (*[1.0] * len(plan.starts), _STITCH_COUNTS)
    return dataclasses.replace(plan, starts=(*plan.starts, 3 * width // 2), counts=counts, period=width)


def periodic(canvas: Tensor) -> Tensor:
    """A|B|C|D -> A|D|A|D (`b c h w`, w a multiple of 4)."""
    first, _, _, last = canvas.chunk(4, -1)
    return torch.cat([first, last, first, last], -1)


def middle(canvas: Tensor) -> Tensor:
    """A|B|C|D -> B|C."""
    _, second, third, _ = canvas.chunk(4, -1)
    return torch.cat([second, third], -1)
