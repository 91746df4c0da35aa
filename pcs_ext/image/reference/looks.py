"""The look of a picture: what an image encoder sees of it once the subject is taken out (FaceStudio, section 3.3)."""

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.image.data import Photo
from pcs_ext.image.reference.encoder import PictureEncoder


@torch.no_grad()
def looks(photos: Sequence[Photo], encoder: PictureEncoder) -> Tensor:
    """Features of photos with black where their masks are, `n ...`; of whole photos where no mask is known.

    Args:
        photos: of any sizes; those of one size are seen together where they follow each other.
        encoder: sees them.
    """
    seen = []
    for _, group in itertools.groupby(photos, lambda photo: photo.image.shape):
        some = list(group)
        masks = [torch.zeros_like(photo.image[:1]) if photo.mask is None else photo.mask for photo in some]
        hidden = (torch.stack(masks) > 0.5).float()
        images = torch.stack([photo.image for photo in some])
        seen.append(encoder(images * (1 - hidden) - hidden))
    return torch.cat(seen)
