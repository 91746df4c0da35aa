"""A picture's cells shared out among several things: by where words look, by boxes, or in columns."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.image.edits.boxes import Box
from pcs_ext.image.masks import grown, on_range, otsu


def columns(phrases: Sequence[str], *, top: float = 0.1, bottom: float = 0.95) -> list[Box]:
    """A box for each phrase, side by side from left to right, of equal widths, with room between them."""
    width, room = 1 / len(phrases), 0.06 / len(phrases)
    return [
        Box(phrase=phrase, left=index * width + room, right=(index + 1) * width - room, top=top, bottom=bottom)
        for index, phrase in enumerate(phrases)
    ]


def disjoint(looks: Tensor, boxes: Sequence[Box | None], growth: int, threshold: float | None = None) -> Tensor:
    """Regions `n h w` of zeros and ones, no cell in two, where each of `n` things is looked at most of all.

    A cell belongs to a thing when its map, brought to [0, 1], is above `threshold` (None: Otsu's) and above every other
    thing's. Regions are then grown, into free cells only, and cut to their boxes; a thing with a box of which nothing
    is left has the box.

    Args:
        looks: maps, `n h w`.
        boxes: one per thing, or None.
        growth: cells.
        threshold: share of a map's range, in (0, 1).
    """
    allowed = torch.stack([torch.ones_like(looks[0]) if box is None else _filled(box, looks[0]) for box in boxes])
    scaled = torch.stack([on_range(look) for look in looks]) * allowed
    above = torch.stack([(m > (otsu(m) if threshold is None else threshold)).float() for m in scaled])
    winner = torch.nn.functional.one_hot(scaled.argmax(0), len(scaled)).permute(2, 0, 1).to(scaled)
    found = above * winner
    for index, box in enumerate(boxes):
        if box is not None and not found[index].any():
            found[index] = allowed[index] * (1 - found.amax(0))
    free = 1 - found.amax(0)
    wider = grown(found[:, None], growth)[:, 0] * allowed * free
    # A free cell that two regions reach goes to the one whose thing is looked at more there.
    reached = torch.nn.functional.one_hot((wider * (scaled + 1e-6)).argmax(0), len(wider)).permute(2, 0, 1)
    return found + wider * reached.to(wider)


def _filled(box: Box, like: Tensor) -> Tensor:
    return (box.coverage(like.shape[-2], like.shape[-1]) >= 0.5).to(like)
