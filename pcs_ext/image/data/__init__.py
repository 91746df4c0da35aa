"""Photos in: reading, checking, augmenting, batching."""

from pcs_ext.image.data.concept_crops import concept_crops
from pcs_ext.image.data.dataset import Augmentation, SubjectDataset
from pcs_ext.image.data.overlooked import enlarged, overlooked, repeated
from pcs_ext.image.data.photos import (
    LEARNED_SIDE,
    Photo,
    find_photos,
    mask_files,
    one_photo,
    open_image,
    photo_files,
    photo_paths,
    read_mask,
    read_photo,
)

__all__ = [
    "LEARNED_SIDE",
    "Augmentation",
    "Photo",
    "SubjectDataset",
    "concept_crops",
    "enlarged",
    "find_photos",
    "mask_files",
    "one_photo",
    "open_image",
    "overlooked",
    "photo_files",
    "photo_paths",
    "read_mask",
    "read_photo",
    "repeated",
]
