"""A subject cut out by its mask and moved about, so that what it is does not depend on where it is (PACGen)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.image.masks import bounding_box

_SCALES = (0.3, 0.9)
"""Smallest and largest longer side of the subject, as shares of the picture's. Ours; the paper's could not be read."""


def moved_about(image: Tensor, mask: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """The subject at a random size and place on gray, and its mask there (Li et al. 2023, arXiv 2306.17154).

    Differs from the paper: what is around it is gray and meant to be left out of the loss, instead of a background that
    is learned with it.

    Args:
        image: `3 s s` in [-1, 1].
        mask: `k s s` in [0, 1]; what any of them covers moves as one. An empty one leaves all as it is.
        generator: of size and place.

    Returns:
        image and mask, shaped like the inputs; outside of the mask the image is 0.
    """
    whole = mask.amax(0, keepdim=True)
    size, left, top = (float(torch.rand((), generator=generator)) for _ in range(3))
    if not (whole > 0.5).any():
        return image, mask
    side = image.shape[-1]
    x0, y0, x1, y1 = bounding_box(whole[None])
    scale = (_SCALES[0] + size * (_SCALES[1] - _SCALES[0])) * side / max(x1 - x0, y1 - y0)
    height, width = (max(1, round(length * scale)) for length in (y1 - y0, x1 - x0))
    cut = torch.cat([image * whole, mask])[:, y0:y1, x0:x1]
    resized = F.interpolate(cut[None], size=(height, width), mode="bicubic", antialias=True)[0]
    x, y = round(left * (side - width)), round(top * (side - height))
    placed = torch.zeros(3 + len(mask), side, side)
    placed[:, y : y + height, x : x + width] = resized
    return placed[:3].clamp(-1, 1), placed[3:].clamp(0, 1)
