"""Single pictures that a clip is made with: what it starts from or looks like, and masks that hold for all frames."""

import dataclasses
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor

from pcs_ext.errors import InputError
from pcs_ext.image.data import read_photo
from pcs_ext.image.levels import levels_of
from pcs_ext.video.clips import read_clip
from pcs_ext.video.stills import is_still


@dataclasses.dataclass(frozen=True)
class GivenPictures:
    """What was given as one picture, at the size of its file."""

    picture: Tensor | None = None
    """`1 3 h w` in [-1, 1]: what clips start from or look like; None: none was given."""
    mask: Tensor | None = None
    """`1 3 h w` in [-1, 1]: white where all frames change, black where it is transparent; None: none was given, or it
    is a clip."""

    @classmethod
    def read(cls, picture: Path | None, mask: Path | None) -> "GivenPictures":
        """Read them as photos are read: any common format, upright. Of a clip given as the picture its first frame is
        taken; a mask that is a clip is only seen to be one: it is read once the size of what is made is known.

        Raises:
            InputError: one is missing, or cannot be used.
        """
        for path in (picture, mask):
            if path is not None and not path.exists():
                raise InputError(f"{path} does not exist; expected a picture, a video or a folder of frames.")
        return cls(None if picture is None else _picture(picture), None if mask is None else _mask(mask))


def _picture(path: Path) -> Tensor:
    return read_photo(path).image[None] if is_still(path) else _first_frame(path)


def _mask(path: Path) -> Tensor | None:
    if not is_still(path):
        _first_frame(path)  # says what is wrong with it before anything is loaded
        return None
    photo = read_photo(path)
    # Transparent parts were laid over gray, which is neither inside nor outside.
    return (photo.image if photo.mask is None else photo.image - (1 - photo.mask))[None]


def _first_frame(clip: Path) -> Tensor:
    """`1 3 h w` in [-1, 1]."""
    return read_clip(clip, frames=1).video()[:, :, 0]


def covering(image: Tensor, size: tuple[int, int]) -> Tensor:
    """`n 3 h w` in [-1, 1], scaled to cover `size` (height and width) and cropped at the centre."""
    height, width = image.shape[-2:]
    factor = max(size[0] / height, size[1] / width)
    tall, wide = (max(side, round(factor * own)) for side, own in zip(size, (height, width), strict=True))
    scaled = F.interpolate(image, size=(tall, wide), mode="bicubic", antialias=True).clamp(-1, 1)
    top, left = (tall - size[0]) // 2, (wide - size[1]) // 2
    return scaled[..., top : top + size[0], left : left + size[1]]


def frames_of(image: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture `1 3 h w` in [-1, 1] that covers `size`, as the frames of a clip are: `1 3 h w` uint8."""
    return levels_of(covering(image, size))
