"""Faces: where they are in a picture, and whose they are. Who finds and who compares them can be exchanged."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ResourceError
from pcs_ext.image.detectors import own_detector
from pcs_ext.image.levels import levels_of

_SEARCHED = 480
"""Long side in pixels of what the cascade searches: a face of 1/20 of that is found."""
_WINDOW = 24
"""Of the cascade, in pixels."""
_MARGIN = 0.25
"""By which a face's box is widened on each side, as a share of the box: hair, ears and chin are part of likeness."""


class Box(NamedTuple):
    """A rectangle in pixels; right and bottom are outside."""

    left: int
    top: int
    right: int
    bottom: int

    @property
    def area(self) -> int:
        """In pixels."""
        return max(0, self.right - self.left) * max(0, self.bottom - self.top)


FaceDetector = Callable[[Tensor], Sequence[Box]]
"""A picture, uint8 `3 h w`, upright, sRGB -> boxes of its faces."""
FaceEncoder = Callable[[Tensor], Tensor]
"""Pictures of faces `n 3 s s` in [-1, 1] -> vectors `n d` whose cosine says how alike the faces are."""


def load_detector(name: str) -> FaceDetector:
    """The detector behind a name.

    Args:
        name: `cascade`, the frontal-face cascade that comes with scikit-image (Liao et al. 2007, local binary patterns:
            fast, for upright frontal faces only), or `MODULE:FUNCTION`, a `FaceDetector` of your own.

    Raises:
        UsageError: it is neither.
        ResourceError: scikit-image is missing.
    """
    if name == "cascade":
        _cascade()
        return cascade_faces
    return own_detector(name, finds="face", gives="boxes of its faces", or_else="cascade, or ")


@functools.cache
def _cascade() -> Any:
    try:
        from skimage import data, feature
    except ImportError:
        raise ResourceError("finding faces needs scikit-image. Run: pip install scikit-image") from None
    return feature.Cascade(data.lbp_frontal_face_cascade_filename())


def cascade_faces(picture: Tensor) -> list[Box]:
    """Frontal faces of a picture, uint8 `3 h w`, largest first. See `load_detector`."""
    height, width = picture.shape[1:]
    scale = min(1.0, _SEARCHED / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    if min(size) < _WINDOW:
        return []
    small = F.interpolate(picture[None].float(), size=size, mode="area")[0].round().to(torch.uint8)
    found = _cascade().detect_multi_scale(
        small.permute(1, 2, 0).contiguous().numpy(), scale_factor=1.2, step_ratio=1,
        min_size=(_WINDOW, _WINDOW), max_size=(min(size), min(size)),
    )  # fmt: skip
    boxes = []
    for face in found:
        top, left = face["r"] / scale, face["c"] / scale
        bottom, right = top + face["height"] / scale, left + face["width"] / scale
        boxes.append(Box(int(left), int(top), min(width, round(right)), min(height, round(bottom))))
    return sorted(boxes, key=lambda box: -box.area)


def face_mask(boxes: Sequence[Box], height: int, width: int) -> Tensor:
    """bool `h w`: inside the boxes, each widened by a quarter of itself to all sides."""
    mask = torch.zeros(height, width, dtype=torch.bool)
    for box in boxes:
        across, down = round(_MARGIN * (box.right - box.left)), round(_MARGIN * (box.bottom - box.top))
        rows = slice(max(0, box.top - down), max(0, box.bottom + down))
        mask[rows, max(0, box.left - across) : max(0, box.right + across)] = True
    return mask


@config
class FaceScore:
    """What became of the faces in some pictures."""

    fdfr: float
    """Share of the pictures in which no face was found (face detection failure rate), in [0, 1]; higher = better
    protected."""
    ism: float | None
    """Mean cosine of the pictures' largest faces to the mean vector of the clean photos' (identity score matching),
    over pictures with a face alone: a mean of survivors, to be read with `fdfr`. None: no face, or no clean one."""
    ism_of_all: float | None
    """The same with 0 for pictures without a face."""
    faces: int
    """Pictures with a face."""
    pictures: int


@torch.no_grad()
def score_faces(pictures: Tensor, references: Tensor, detector: FaceDetector, encoder: FaceEncoder) -> FaceScore:
    """FDFR and ISM as Anti-DreamBooth (arXiv 2303.15433, section 5.1) defines them, with the number of survivors.

    Args:
        pictures: that were painted, `n 3 s s` in [-1, 1].
        references: clean photos of the person, likewise.
        detector: finds faces.
        encoder: compares them.
    """
    found, clean = _largest(pictures, detector), _largest(references, detector)
    n = len(pictures)
    fdfr = 1 - len(found) / max(n, 1)
    if not found or not clean:
        return FaceScore(fdfr=fdfr, ism=None, ism_of_all=None, faces=len(found), pictures=n)
    identity = F.normalize(encoder(torch.stack(clean)).float().cpu(), dim=1).mean(0, keepdim=True)
    cosines = F.cosine_similarity(encoder(torch.stack(found)).float().cpu(), identity)
    ism = float(cosines.mean())
    return FaceScore(fdfr=fdfr, ism=ism, ism_of_all=ism * len(found) / n, faces=len(found), pictures=n)


def _largest(pictures: Tensor, detector: FaceDetector) -> list[Tensor]:
    """The largest face of each picture that has one, cut out and resized to the pictures' side, in [-1, 1]."""
    crops = []
    for picture in pictures.cpu():
        boxes = detector(levels_of(picture))
        if not boxes:
            continue
        box = max(boxes, key=lambda box: box.area)
        crop = picture[None, :, max(0, box.top) : max(0, box.bottom), max(0, box.left) : max(0, box.right)]
        if crop.numel() == 0:  # beside the picture, or without area
            continue
        crops.append(F.interpolate(crop, size=picture.shape[1:], mode="bilinear", antialias=True)[0])
    return crops
