"""Fine details of a thing without what is around it: its edges, and what colours they have.

The high-frequency map of AnyDoor (Chen et al. 2023, arXiv 2307.09481, eq. 1): I_h = (|I * K_h| + |I * K_v|) . I . M,
K_h and K_v being Sobel kernels and M the thing's mask, eroded so that its outline is no edge.
"""

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.image.data import Photo
from pcs_ext.image.masks import bounding_box
from pcs_ext.image.reference.shown import Sight

_MARGIN = 1.2
"""Side of the square around a thing, times its own longer side."""
_LEAST = 50 / 255
"""Slopes below are no edges."""
_ERODED = 4 / 256
"""How far the mask is eroded, as a share of the square's side."""
_SOBEL = ((-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0))


def high_frequencies(square: Tensor, mask: Tensor) -> Tensor:
    """Edges with their colours, black elsewhere. Constants are the released code's. Differentiable.

    Args:
        square: `3 s s` in [-1, 1].
        mask: `1 s s` in [0, 1], where the thing is.

    Returns:
        `3 s s` in [-1, 1].
    """
    colours = ((square + 1) / 2)[:, None]
    kernel = torch.tensor(_SOBEL).to(square)
    kernels = torch.stack([kernel, kernel.T])[:, None]
    slopes = F.conv2d(F.pad(colours, (1, 1, 1, 1), mode="reflect"), kernels).abs().clamp_max(1)
    edges = slopes.mean(1).amax(0, keepdim=True)
    radius = max(1, round(_ERODED * square.shape[-1]))
    inner = -F.max_pool2d(-(mask > 0.5).to(square)[None], 2 * radius + 1, stride=1, padding=radius)[0]
    edges = edges * inner
    return 2 * torch.where(edges < _LEAST, torch.zeros_like(edges), edges) * colours[:, 0] - 1


def squared(image: Tensor, mask: Tensor | None, side: int) -> tuple[Tensor, Tensor]:
    """A thing in the middle of a white square: picture `3 side side` and mask `1 side side`.

    Args:
        image: `3 h w` in [-1, 1].
        mask: `1 h w` in [0, 1]; None, or empty: all of the picture is the thing.
        side: pixels.
    """
    if mask is None or not (mask > 0.5).any():
        mask = torch.ones_like(image[:1])
    kept = (mask > 0.5).to(image)
    x0, y0, x1, y1 = bounding_box(mask[None])
    thing, shape = (image * kept + (1 - kept))[:, y0:y1, x0:x1], kept[:, y0:y1, x0:x1]
    wide = round(_MARGIN * max(x1 - x0, y1 - y0))
    left, top = (wide - (x1 - x0)) // 2, (wide - (y1 - y0)) // 2
    around = (left, wide - (x1 - x0) - left, top, wide - (y1 - y0) - top)
    whole = F.pad(thing, around, value=1.0)[None]
    size = (side, side)
    small = F.interpolate(whole, size=size, mode="bilinear", antialias=True)[0].clamp(-1, 1)
    return small, F.interpolate(F.pad(shape, around)[None], size=size, mode="bilinear", antialias=True)[0]


def with_details(sight: Sight, photos: Sequence[Photo], side: int, *, edges: bool) -> Sight:
    """The same with a square of what each photo shows, `n 3 side side`: all of it on white, or its edges alone."""
    squares = [squared(photo.image, photo.mask, side) for photo in photos]
    found = [high_frequencies(*one) if edges else one[0] for one in squares]
    return dataclasses.replace(sight, detail=torch.stack(found).to(sight.features))


def collage(details: Tensor, boxes: Tensor, scene: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Details in boxes of pictures, and where the boxes are.

    Args:
        details: `b 3 s s` in [-1, 1].
        boxes: `b 4`: left, top, right and bottom in shares; the whole picture where one has no extent.
        scene: the pictures, `b 3 h w` in [-1, 1]; None: not known.
        size: height and width of what is made.

    Returns:
        `b 4 h w`: the picture with the details in the box, and 1 in the box, 0 around it, -1 where nothing is known.
    """
    height, width = size
    around = F.interpolate(scene, size=size, mode="bilinear", antialias=True) if scene is not None else None
    made = []
    for row, (left, top, right, bottom) in enumerate(boxes.tolist()):
        if right <= left or bottom <= top:
            left, top, right, bottom = 0.0, 0.0, 1.0, 1.0
        x0, y0 = min(int(left * width), width - 1), min(int(top * height), height - 1)
        x1, y1 = max(x0 + 1, round(right * width)), max(y0 + 1, round(bottom * height))
        empty = details.new_full((4, height, width), -1.0)
        if around is not None:
            empty[:3] = around[row].to(details)
            empty[3] = 0
        small = F.interpolate(details[row : row + 1], size=(y1 - y0, x1 - x0), mode="bilinear", antialias=True)[0]
        empty[:3, y0:y1, x0:x1], empty[3, y0:y1, x0:x1] = small, 1
        made.append(empty)
    return torch.stack(made)


def pasted(squares: Tensor, boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Things on white, each so large that it fills the longer side of its box, about the box's middle.

    Args:
        squares: `b 3 s s` in [-1, 1], from `squared`.
        boxes: `b 4`: left, top, right and bottom in shares; with extent.
        size: height and width of what is made.

    Returns:
        `b 3 h w` in [-1, 1].
    """
    height, width = size
    pixels = torch.tensor([width, height]).to(boxes)
    middle = boxes[:, :2] + boxes[:, 2:] - 1
    wide = _MARGIN * ((boxes[:, 2:] - boxes[:, :2]) * pixels).amax(1)
    scale = pixels / wide[:, None]
    maps = torch.zeros(len(boxes), 2, 3).to(squares)
    maps[:, 0, 0], maps[:, 1, 1] = scale[:, 0], scale[:, 1]
    maps[:, :, 2] = -middle * scale
    grid = F.affine_grid(maps, [len(boxes), 3, height, width], align_corners=False)
    return F.grid_sample(squares - 1, grid, align_corners=False) + 1


def widened(boxes: Tensor, factor: float) -> Tensor:
    """Boxes `... 4` about their middles, no farther than the picture's edges; those without extent as they are."""
    middle = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = factor * (boxes[..., 2:] - boxes[..., :2]) / 2
    return torch.cat([middle - half, middle + half], dim=-1).clamp(0, 1)
