"""Where in a picture things shall stand: boxes in shares of its width and height, as cells and as features."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pcs_ext.errors import UsageError

_TEMPERATURE = 100.0
"""The highest frequency (GLIGEN, arXiv 2301.07093, whose released code MS-Diffusion and Subject-Diffusion follow)."""


class BoxFeatures(nn.Module):
    """Sines and cosines of a box's four numbers times 100^(i/n), `... 4` -> `... 8n`. It has no weights.

    Args:
        frequencies: n; 8 in the released codes.
    """

    def __init__(self, frequencies: int = 8) -> None:
        super().__init__()
        self.width = 8 * frequencies
        bands = _TEMPERATURE ** (torch.arange(frequencies) / frequencies)
        self.register_buffer("bands", bands, persistent=False)

    def forward(self, boxes: Tensor) -> Tensor:
        """Differentiable."""
        angles = boxes.unsqueeze(-1) * self.bands.to(boxes)  # type: ignore[operator]
        return torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(-3)


def known_boxes(boxes: Tensor) -> Tensor:
    """Which boxes `... 4` say something, `...` bool: one without extent says that nobody knows."""
    return (boxes[..., 2] > boxes[..., 0]) & (boxes[..., 3] > boxes[..., 1])


def boxes_of(masks: Tensor) -> Tensor:
    """The smallest boxes around masks `... h w` in [0, 1], `... 4`; zeros around an empty one."""
    inside = masks > 0.5
    height, width = masks.shape[-2:]

    def ends(seen: Tensor, count: int) -> tuple[Tensor, Tensor]:
        places = torch.arange(count, device=masks.device)
        first = torch.where(seen, places, count).amin(-1)
        last = torch.where(seen, places + 1, 0).amax(-1)
        return first / count, last / count

    left, right = ends(inside.any(-2), width)
    top, bottom = ends(inside.any(-1), height)
    boxes = torch.stack([left, top, right, bottom], dim=-1)
    return torch.where(inside.any(-1).any(-1)[..., None], boxes, torch.zeros_like(boxes))


def cells_in(boxes: Tensor, rows: int, columns: int) -> Tensor:
    """Cells that a box touches, `... 4` -> `... rows columns` of 0 and 1; none, where it has no extent."""

    def between(first: Tensor, last: Tensor, count: int) -> Tensor:
        places = torch.arange(count, device=boxes.device)
        return (places >= (first * count).floor()[..., None]) & (places < (last * count).ceil()[..., None])

    across = between(boxes[..., 0], boxes[..., 2], columns)
    down = between(boxes[..., 1], boxes[..., 3], rows)
    inside = down.unsqueeze(-1) & across.unsqueeze(-2) & known_boxes(boxes)[..., None, None]
    return inside.to(boxes.dtype)


def read_boxes(texts: Sequence[str], count: int) -> Tensor:
    """Boxes as people write them, "0,0,0.5,1" being the left half: `count 4`.

    Raises:
        UsageError: not one for each photo, or no box.
    """
    if len(texts) != count:
        raise UsageError(f"--reference-box has {len(texts)} boxes for {count} photos; expected one for each.")
    return torch.stack([_box(text) for text in texts])


def _box(text: str) -> Tensor:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    inside = len(numbers) == 4 and all(0 <= number <= 1 for number in numbers)
    if not inside or numbers[0] >= numbers[2] or numbers[1] >= numbers[3]:
        raise UsageError(
            f"--reference-box {text!r} is no box; expected left,top,right,bottom as shares of the picture: 0,0,0.5,1 "
            "is its left half."
        )
    return torch.tensor(numbers)
