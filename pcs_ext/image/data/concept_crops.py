"""One picture as several, each about one thing in it (FineStyle, Zhang et al., NeurIPS 2024)."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.errors import PhotoError
from pcs_ext.image.data.photos import MIN_SIDE, Photo

_MARGIN = 0.1
"""Of a box's longer side, on each side of it."""


def concept_crops(photos: Sequence[Photo]) -> list[Photo]:
    """Every photo, whole, and a square around each of its numbered masks, with a caption of its own.

    `NAME.txt` has a line for the photo and, in their order, one for each mask. The whole photo counts everywhere, a
    square within its mask. Photos without numbered masks stay as they are.

    Raises:
        PhotoError: the lines are not as many, or a mask is black.
    """
    made: list[Photo] = []
    for photo in photos:
        if photo.parts is None:
            made.append(photo)
            continue
        lines = [line.strip() for line in (photo.caption or "").splitlines() if line.strip()]
        if len(lines) != 1 + len(photo.parts):
            raise PhotoError(
                f"{photo.path} has {len(photo.parts)} numbered masks and {len(lines)} lines in {photo.path.stem}.txt; "
                f"expected {1 + len(photo.parts)}: one for the picture, then one for each mask."
            )
        made.append(photo.but(caption=lines[0], mask=None, parts=None))
        made += [_around(photo, mask, line) for mask, line in zip(photo.parts, lines[1:], strict=True)]
    return made


def _around(photo: Photo, mask: Tensor, caption: str) -> Photo:
    if not (mask > 0.5).any():
        raise PhotoError(f"a numbered mask of {photo.path} is black; expected one thing of the picture, white.")
    rows, columns = square_around(mask)
    cut = (slice(None), rows, columns)
    image, own = photo.image[cut], mask[None][cut]
    if min(image.shape[-2:]) < MIN_SIDE:
        size = (MIN_SIDE, MIN_SIDE)
        image, own = (
            torch.nn.functional.interpolate(one[None], size=size, mode="bilinear", antialias=True)[0]
            for one in (image, own)
        )
    return dataclasses.replace(photo, image=image, mask=own, parts=None, before=None, caption=caption)


def square_around(mask: Tensor) -> tuple[slice, slice]:
    """Rows and columns of a square, or what the picture has of it, around what of a mask `h w` is above 1/2."""
    spans = []
    for axis, length in ((1, mask.shape[0]), (0, mask.shape[1])):
        at = (mask > 0.5).any(axis).nonzero().flatten()
        spans.append((int(at[0]), int(at[-1]) + 1, length))
    side = round(max(last - first for first, last, _ in spans) * (1 + 2 * _MARGIN))
    slices = []
    for first, last, length in spans:
        edge = min(side, length)
        start = min(max((first + last - edge) // 2, 0), length - edge)
        slices.append(slice(start, start + edge))
    return slices[0], slices[1]
