"""Masks: from pixels to latents, from attention to masks, and edits that leave what is outside exactly alone."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def cells_of(mask: Tensor, factor: int) -> Tensor:
    """A mask of pixels `1 1 h w` as one of latent cells: 1 where any pixel of the cell is inside, else 0."""
    return F.max_pool2d((mask > 0.5).float(), factor)


def inside_only(edited: Tensor, original: Tensor, mask: Tensor) -> Tensor:
    """`edited` where the mask is above 0, and `original`, bit for bit, where it is 0; between 0 and 1 a mixture.

    Args:
        edited, original: `b c h w`.
        mask: `1 1 h w` in [0, 1].
    """
    mask = mask.to(edited)
    return torch.where(mask == 0, original, torch.where(mask == 1, edited, torch.lerp(original, edited, mask)))


def grown(mask: Tensor, cells: int) -> Tensor:
    """A mask `1 1 h w` grown by so many cells to all sides."""
    return F.max_pool2d(mask, 2 * cells + 1, stride=1, padding=cells) if cells > 0 else mask


def feathered(mask: Tensor, radius: int) -> Tensor:
    """A hard mask `1 1 h w` that rises from 0 at its edge to 1 within `radius` pixels, and stays 0 outside.

    Where the mask is thinner than that, the highest value it reaches is brought to 1.
    """
    if radius < 1:
        return mask
    mask = (mask > 0.5).float()
    padded = F.pad(mask, [radius] * 4, mode="replicate")
    soft = mask * (2 * F.avg_pool2d(padded, 2 * radius + 1, stride=1) - 1).clamp(0, 1)
    peak = float(soft.max())
    return soft / peak if peak > 0 else mask


def attended(maps: Tensor, positions: Sequence[int], threshold: float | None = None) -> Tensor:
    """Where the tokens at `positions` look: `1 1 h w` of zeros and ones, from maps `1 tokens h w`.

    The mean over the tokens, scaled to [0, 1] and cut at `threshold` (None: Otsu's). Prompt-to-Prompt's local blend
    cuts at 0.3 of the maximum; its maps keep the level that every cell has, which depends on the length of the prompt.
    """
    seen = maps[:, list(positions)].mean(1, keepdim=True)
    scaled = on_range(seen)
    return (scaled > (otsu(scaled) if threshold is None else threshold)).float()


def on_range(values: Tensor) -> Tensor:
    """Values brought to [0, 1]: their smallest to 0, their largest to 1."""
    low, high = values.amin(), values.amax()
    return (values - low) / (high - low).clamp_min(1e-12)


def otsu(values: Tensor) -> float:
    """The threshold that parts values best in two: the largest variance between the parts (Otsu 1979)."""
    ordered = values.flatten().double().sort().values
    count = torch.arange(1, len(ordered), dtype=torch.float64, device=ordered.device)
    sums = ordered.cumsum(0)
    below, above = sums[:-1] / count, (sums[-1] - sums[:-1]) / (len(ordered) - count)
    best = int((count * (len(ordered) - count) * (above - below).square()).argmax())
    return float((ordered[best] + ordered[best + 1]) / 2)


def bounding_box(mask: Tensor) -> tuple[int, int, int, int]:
    """Left, top, right, bottom in pixels (right and bottom exclusive) of what is inside a mask `1 1 h w`."""
    inside = mask[0, 0] > 0.5
    rows, columns = inside.any(1).nonzero()[:, 0], inside.any(0).nonzero()[:, 0]
    assert len(rows), "an empty mask has no box"
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
