"""Image files as the tensors that metrics take."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from pcs_ext.image.data.photos import read_photo


def square_images(paths: Sequence[Path], side: int) -> Tensor:
    """Photos or generated images, cut to their middle square and resized: `n 3 side side` in [-1, 1].

    Raises:
        PhotoError: a file is missing or no image; the message names it.
    """
    return torch.stack([_square(read_photo(path).image, side) for path in paths])


def _square(image: Tensor, side: int) -> Tensor:
    _, height, width = image.shape
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    cut = image[None, :, top : top + edge, left : left + edge]
    if edge == side:
        return cut[0]
    return functional.interpolate(cut, size=(side, side), mode="bicubic", antialias=True)[0].clamp(-1, 1)
