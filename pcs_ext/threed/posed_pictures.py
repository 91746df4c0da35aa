"""Posed pictures of a transforms.json as tensors."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from pcs_ext.errors import InputError
from pcs_ext.threed.cameras import Cameras
from pcs_ext.threed.transforms_json import check_aspect, read_aspects, read_transforms


def read_pictures(path: str | Path, background: float = 1.0, *, suffix: str = "") -> tuple[Cameras, Tensor]:
    """Cameras and their pictures `b 3 h w` in [0, 1]; transparent ones over a grey `background`.

    Args:
        path: of the transforms.json.
        background: grey in [0, 1].
        suffix: reads the pictures of these names with it before the ending instead: `_mask`.

    Raises:
        InputError: a picture is missing, they differ in size, or their shape is not that of their lens.
    """
    cameras, files = read_transforms(Path(path))
    pictures = []
    for file, aspect in zip(files, read_aspects(Path(path)), strict=True):
        place = Path(path).parent / file
        place = place.with_name(f"{place.stem}{suffix}{place.suffix}")
        try:
            pictures.append(read_picture(place, background))
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        check_aspect(Path(path), place.name, aspect, *pictures[-1].shape[1:])
    if len({picture.shape for picture in pictures}) != 1:
        sizes = sorted({tuple(picture.shape[1:]) for picture in pictures})
        raise InputError(f"{path}: expected pictures of one size, got heights and widths {sizes}.")
    return cameras, torch.stack(pictures)


def read_picture(path: Path, background: float = 1.0) -> Tensor:
    """A picture `3 h w` in [0, 1]; where it is transparent, over a grey `background`.

    Raises:
        InputError: there is none, or it is damaged.
    """
    try:
        with Image.open(path) as image:
            rgba = torch.from_numpy(np.array(image.convert("RGBA"))).permute(2, 0, 1) / 255
    except OSError as error:
        raise InputError(f"expected a picture at {path}, got: {error}.") from None
    return rgba[:3] * rgba[3:] + background * (1 - rgba[3:])
