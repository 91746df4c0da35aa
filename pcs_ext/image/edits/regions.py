"""A picture's cells shared out among several things: by where words look, by boxes, or in columns."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.image.edits.boxes import Box, box_cells
from pcs_ext.image.masks import grown, on_range, otsu


def columns(phrases: Sequence[str], *, top: float = 0.1, bottom: float = 0.95) -> list[Box]:
    """A box for each phrase, side by side from left to right, of equal widths, with room between them."""
    width, room = 1 / len(phrases), 0.06 / len(phrases)
    return [
        Box(phrase=phrase, left=index * width + room, right=(index + 1) * width - room, top=top, bottom=bottom)
        for index, phrase in enumerate(phrases)
    ]


def disjoint(looks: Tensor, boxes: Sequence[Box | None], growth: int, threshold: float | None = None) -> Tensor:
    """Regions `n h w` of zeros and ones, no cell in two: boxes where there are any, else where things are looked for.

    Of two boxes that overlap the first has the cells of both. Without a box a cell belongs to a thing when its map,
    brought to [0, 1], is above `threshold` (None: Otsu's) and above every other such thing's; these regions are then
    grown into free cells.

    Args:
        looks: maps, `n h w`.
        boxes: one per thing, or None.
        growth: cells.
        threshold: share of a map's range, in (0, 1).
    """
    found, free = torch.zeros_like(looks), torch.ones_like(looks[0])
    for index, box in enumerate(boxes):
        if box is not None:
            found[index] = box_cells(box, (looks.shape[-2], looks.shape[-1])).to(looks) * free
            free = free - found[index]
    sought = [index for index, box in enumerate(boxes) if box is None]
    if not sought:
        return found
    scaled = torch.stack([on_range(looks[index]) for index in sought])
    above = torch.stack([(m > (otsu(m) if threshold is None else threshold)).to(m) for m in scaled])
    core = above * _largest(scaled) * free
    wider = grown(core[:, None], growth)[:, 0] * (free - core.amax(0))
    # A free cell that two regions reach goes to the one whose thing is looked at more there.
    found[sought] = core + wider * _largest(wider * (scaled + 1e-6))
    return found


def _largest(maps: Tensor) -> Tensor:
    """1 where a map is the largest of `n h w`, 0 elsewhere."""
    return torch.nn.functional.one_hot(maps.argmax(0), len(maps)).permute(2, 0, 1).to(maps)
