"""Subjects that were photographed apart, in one picture: cut out by their masks and set side by side."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.errors import PhotoError
from pcs_ext.image.concept import SUBJECT
from pcs_ext.image.data import Photo
from pcs_ext.image.masks import bounding_box
from pcs_ext.runtime import generator_for

_MARGIN = 0.9
"""Share of its column that a subject fills, along the side that is scarce."""


def collages(subjects: Sequence[Sequence[Photo]], *, count: int, side: int, seed: int) -> list[Photo]:
    """Square pictures of all subjects at once, each in a column of its own, on gray.

    CustomVideo (Wang et al. 2024, arXiv 2401.09962) and VideoDreamer (Chen et al. 2023, arXiv 2311.00990) let subjects
    be seen together so; how exactly they are set is ours: columns in random order, upright places random.

    Args:
        subjects: photos of each subject, all with masks.
        count: how many.
        side: in pixels.
        seed: of which photos meet, and where.

    Returns:
        Photos with a caption of all subjects and `parts` in the subjects' order; `path` is that of one of the photos.

    Raises:
        PhotoError: a photo has no mask, or an empty one.
    """
    for photo in (photo for photos in subjects for photo in photos):
        if photo.mask is None or not bool((photo.mask > 0.5).any()):
            raise PhotoError(f"{photo.path} has no mask that shows where its subject is; put one beside it.")
    return [_collage(subjects, side, index, generator_for("collage", seed, index)) for index in range(count)]


def _collage(subjects: Sequence[Sequence[Photo]], side: int, index: int, generator: torch.Generator) -> Photo:
    order = torch.randperm(len(subjects), generator=generator).tolist()
    canvas, parts = torch.zeros(3, side, side), torch.zeros(len(subjects), side, side)
    width = side // len(subjects)
    chosen = [photos[int(torch.randint(len(photos), (), generator=generator))] for photos in subjects]
    for column, which in enumerate(order):
        image, mask = _cut_out(chosen[which], width, side)
        height, wide = mask.shape[-2:]
        top = int(torch.randint(side - height + 1, (), generator=generator))
        left = column * width + (width - wide) // 2
        place = (slice(None), slice(top, top + height), slice(left, left + wide))
        canvas[place] = torch.lerp(canvas[place], image, mask)
        parts[which, place[1], place[2]] = mask[0]
    return Photo(
        path=chosen[index % len(chosen)].path,
        image=canvas,
        mask=parts.amax(0, keepdim=True),
        caption=f"a photo of {SUBJECT}",
        parts=parts,
    )


def _cut_out(photo: Photo, width: int, height: int) -> tuple[Tensor, Tensor]:
    """The subject alone, `3 h w`, and its mask `1 h w`, as large as fits."""
    assert photo.mask is not None
    left, top, right, bottom = bounding_box(photo.mask[None])
    scale = _MARGIN * min(width / (right - left), height / (bottom - top))
    size = (max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale)))
    both = torch.cat([photo.image, photo.mask])[None, :, top:bottom, left:right]
    resized = F.interpolate(both, size=size, mode="bilinear", antialias=True)[0]
    return resized[:3].clamp(-1, 1), resized[3:].clamp(0, 1)
