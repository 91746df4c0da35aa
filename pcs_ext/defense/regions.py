"""Where a photo may change: everywhere, under a mask that lies beside it, on faces, or where the subject is."""

import dataclasses
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.defense.canvas import Canvas, Square, Views
from pcs_ext.defense.faces import FaceDetector, face_mask
from pcs_ext.defense.photos import OwnPhoto
from pcs_ext.errors import InputError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.locate import locate

Region = Literal["all", "mask", "faces", "subject"]
"""all. mask: the light parts of NAME_mask.png beside the photo. faces: boxes around faces. subject: where the base's
attention finds the noun; the background is kept as it is."""


def on_faces(photo: OwnPhoto, detector: FaceDetector) -> OwnPhoto:
    """The photo, to be changed on its faces alone; all over, with a note, where none is found: an unseen face must not
    go unprotected."""
    seen = photo.pixels if photo.srgb is None else photo.srgb
    boxes = detector(seen.expand(3, -1, -1))
    if not boxes:
        return _everywhere(photo, "no face was found: all of the photo was changed")
    note = f"{len(boxes)} face{'s' if len(boxes) > 1 else ''} found; only there the photo was to change"
    return dataclasses.replace(photo, mask=face_mask(boxes, *photo.size), notes=(*photo.notes, note))


def on_subject(photo: OwnPhoto, canvas: Canvas, backbone: AbstractBackbone, noun: str) -> OwnPhoto:
    """The photo, to be changed where the base finds the noun alone; all over, with a note, where it finds nothing."""
    mask = torch.zeros(photo.size, dtype=torch.bool)
    for square in Views().squares(*photo.size):
        try:
            found = _found(canvas, square, backbone, noun)
        except InputError:  # nothing stands out in this square
            continue
        rows = slice(square.top, square.top + square.side)
        mask[rows, square.left : square.left + square.side] |= found
    if not mask.any():
        return _everywhere(photo, f"{noun} was not found: all of the photo was changed")
    note = f"{noun} found on {float(mask.float().mean()):.0%} of the photo; only there it was to change"
    return dataclasses.replace(photo, mask=mask, notes=(*photo.notes, note))


def _found(canvas: Canvas, square: Square, backbone: AbstractBackbone, noun: str) -> Tensor:
    picture = canvas.view(square, backbone.resolution, None)[None]
    mask = locate(backbone, picture, f"a photo of a {noun}", noun)
    return F.interpolate(mask, size=(square.side, square.side), mode="nearest")[0, 0] > 0.5


def _everywhere(photo: OwnPhoto, note: str) -> OwnPhoto:
    return dataclasses.replace(photo, mask=None, notes=(*photo.notes, note))
