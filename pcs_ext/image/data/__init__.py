"""Photos in: reading, checking, augmenting, batching."""

from pcs_ext.image.data.concept_crops import concept_crops
from pcs_ext.image.data.dataset import Augmentation, SubjectDataset
from pcs_ext.image.data.photos import (
    Photo,
    each_photo,
    find_photos,
    open_image,
    photo_files,
    photo_paths,
    read_mask,
    read_photo,
)

__all__ = [
    "Augmentation",
    "Photo",
    "SubjectDataset",
    "concept_crops",
    "each_photo",
    "find_photos",
    "open_image",
    "photo_files",
    "photo_paths",
    "read_mask",
    "read_photo",
]
