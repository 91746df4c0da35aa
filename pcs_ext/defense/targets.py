"""Pictures that targeted methods pull towards."""

import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.image.data import read_photo


def target_image(target: str, size: int) -> Tensor:
    """A picture `3 size size` in [-1, 1].

    Args:
        target: `pattern` for the built-in one, or the path of a picture.
        size: of the model's training images.

    Raises:
        PhotoError: the picture cannot be read.
    """
    if target == "pattern":
        return pattern(size)
    image = read_photo(Path(target)).image
    edge = min(image.shape[1:])
    top, left = (image.shape[1] - edge) // 2, (image.shape[2] - edge) // 2
    square = image[None, :, top : top + edge, left : left + edge]
    return F.interpolate(square, size=(size, size), mode="bicubic", antialias=True, align_corners=False)[0].clamp(-1, 1)


def pattern(size: int) -> Tensor:
    """Two fine gratings turned against each other, black and white: a moire, as Mist's authors recommend as target.

    Their own picture is not copied; any picture of strong regular texture serves.
    """
    y, x = torch.meshgrid(torch.linspace(0, 1, size), torch.linspace(0, 1, size), indexing="ij")
    waves = [torch.sin(2 * math.pi * 10 * (x * math.cos(a) + y * math.sin(a))) for a in (0.35, 0.85)]
    return torch.sign(waves[0] * waves[1]).expand(3, -1, -1).contiguous()
