"""From where photos look at what they show, and by how much a camera goes about it."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from pcs_ext.errors import PhotoError, UsageError

_SUFFIX = "_view.txt"
_HOW = 'expected azimuth, elevation and distance: "30 15 4.5"'


class TurnFeatures(nn.Module):
    """A turn as numbers (Zero-1-to-3, Liu et al. 2023, arXiv 2303.11328): radians of elevation, sine and cosine of the
    azimuth, distance. It has no weights."""

    width = 4

    def forward(self, turns: Tensor) -> Tensor:
        """Azimuth and elevation in degrees and distance, `... 3` -> `... 4`. Differentiable."""
        azimuth, elevation = turns[..., 0].deg2rad(), turns[..., 1].deg2rad()
        return torch.stack([elevation, azimuth.sin(), azimuth.cos(), turns[..., 2]], dim=-1)


def read_view(photo: Path) -> Tensor | None:
    """What `NAME_view.txt` beside a photo says of its camera, `3`: azimuth and elevation in degrees about the thing, 0
    its front, and distance; None: there is no such file.

    Raises:
        PhotoError: it says something else.
    """
    file = photo.with_name(photo.stem + _SUFFIX)
    if not file.is_file():
        return None
    try:
        numbers = [float(word) for word in file.read_text(encoding="utf-8-sig").replace(",", " ").split()]
    except (ValueError, UnicodeDecodeError):
        numbers = []
    if len(numbers) != 3 or not all(abs(number) < float("inf") for number in numbers) or numbers[2] <= 0:
        raise PhotoError(f"{file} does not say from where {photo.name} was taken; {_HOW}.")
    return torch.tensor(numbers)


def read_views(photos: Sequence[Path]) -> Tensor:
    """Of photos that all have one, `n 3`.

    Raises:
        PhotoError: one has none.
    """
    found = []
    for photo in photos:
        view = read_view(photo)
        if view is None:
            raise PhotoError(
                f"{photo} has no {photo.stem}{_SUFFIX} beside it, and this system learns from where photos were taken; "
                f"{_HOW}."
            )
        found.append(view)
    return torch.stack(found)


def read_turns(texts: Sequence[str], count: int) -> Tensor:
    """Turns as people write them, "90,0" being a quarter to the thing's left and "0,30,-1" up and nearer: `count 3`.

    Raises:
        UsageError: neither one nor one for each photo, or no turn.
    """
    if len(texts) not in (1, count):
        raise UsageError(f"--reference-turn has {len(texts)} turns for {count} photos; expected one, or one for each.")
    turns = torch.stack([_turn(text) for text in texts])
    return turns if len(turns) == count else turns.expand(count, -1)


def _turn(text: str) -> Tensor:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if len(numbers) not in (2, 3) or not all(abs(number) < float("inf") for number in numbers):
        raise UsageError(
            f"--reference-turn {text!r} is no turn; expected azimuth,elevation in degrees, and at will the distance: "
            "90,0 looks at the photo's thing from a quarter further around it."
        )
    return torch.tensor([*numbers, 0.0][:3])
