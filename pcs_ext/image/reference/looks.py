"""The look of a picture: what an image encoder sees of it once the subject is taken out (FaceStudio, section 3.3)."""

import itertools
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.data import Photo, find_photos
from pcs_ext.image.reference.encoder import PictureEncoder


def look_of(style: Path, encoder: PictureEncoder) -> Tensor:
    """Features of one style picture, `1 ...`; see `looks`.

    Raises:
        UsageError: a folder of several.
        PhotoError: it cannot be read.
    """
    found = find_photos([style])
    if len(found) != 1:
        raise UsageError(f"--reference-style {style} holds {len(found)} photos; expected one picture, name its file.")
    return looks(found, encoder)


@torch.no_grad()
def looks(photos: Sequence[Photo], encoder: PictureEncoder) -> Tensor:
    """Features of photos with black where their masks are, `n ...`; of whole photos where no mask is known.

    Args:
        photos: of any sizes; those of one size are seen together where they follow each other.
        encoder: sees them.
    """
    seen = []
    for _, group in itertools.groupby(photos, lambda photo: photo.size):
        some = list(group)
        masks = [torch.zeros_like(photo.image[:1]) if photo.mask is None else photo.mask for photo in some]
        hidden = (torch.stack(masks) > 0.5).float()
        images = torch.stack([photo.image for photo in some])
        seen.append(encoder(images * (1 - hidden) - hidden))
    return torch.cat(seen)
