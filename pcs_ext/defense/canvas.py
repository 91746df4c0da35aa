"""A photo under protection, and what an attacker's training would see of it.

The perturbation has the photo's own resolution. An attacker cuts squares out of the photo and resizes them to the
training size of the model; the same squares, differentiable, are the views that the engine optimises through.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.defense.budget import Budget
from pcs_ext.defense.photos import OwnPhoto
from pcs_ext.errors import ConfigError

_BAND = 256
"""Rows that elementwise work on a photo is done for at once."""
_CPU = torch.device("cpu")


class Square(NamedTuple):
    """A square of a photo, in its own pixels."""

    top: int
    left: int
    side: int


@config
class Views:
    """Which squares of a photo count."""

    zooms: tuple[float, ...] = (1.0,)
    """1: the largest squares. z: squares of 1/z of that side, tiling the photo; for trainers that crop large photos."""
    overlap: float = 0.25
    """Of neighbouring tiles, as a share of their side, in [0, 1)."""
    center_only: bool = False
    """Only the central square of each zoom, as the papers' scripts crop."""
    per_step: int = 1
    """Squares that each step's gradient is summed over."""

    def __post_init__(self) -> None:
        if not self.zooms or min(self.zooms) < 1 or not 0 <= self.overlap < 1 or self.per_step < 1:
            raise ConfigError(
                "views need zooms of at least 1, overlap in [0, 1) and per_step of at least 1, got "
                f"{list(self.zooms)}, {self.overlap} and {self.per_step}."
            )

    def squares(self, height: int, width: int) -> list[Square]:
        """All squares, large ones first. Together the squares of each zoom cover the photo, unless `center_only`."""
        found: dict[Square, None] = {}
        for zoom in self.zooms:
            side = max(1, round(min(height, width) / zoom))
            if self.center_only:
                found[Square((height - side) // 2, (width - side) // 2, side)] = None
                continue
            for top in _places(height, side, self.overlap):
                found |= {Square(top, left, side): None for left in _places(width, side, self.overlap)}
        return list(found)


def _places(length: int, side: int, overlap: float) -> list[int]:
    """First pixels of an odd number of windows from one end to the other, the middle one among them."""
    if length == side:
        return [0]
    count = 1 + math.ceil((length - side) / max(1.0, side * (1 - overlap)))
    count += 1 - count % 2
    return sorted({round(index * (length - side) / (count - 1)) for index in range(count)})


@dataclasses.dataclass(eq=False)
class Canvas:
    """One photo's samples and its perturbation so far."""

    photo: OwnPhoto
    budget: Budget
    delta: Tensor = dataclasses.field(init=False)
    """float32 `c h w` in levels, always within the budget."""

    def __post_init__(self) -> None:
        self.pixels = self.photo.pixels
        self.delta = torch.zeros(self.pixels.shape)
        self.room = self.budget.room(self.pixels)
        self._originals: dict[tuple[Square, int, torch.device], Tensor] = {}

    @property
    def key(self) -> str:
        """Names the photo in seeds, so that its protection does not depend on its neighbours."""
        return self.photo.sha256[:16]

    @torch.no_grad()
    def move(self, step: Callable[[slice], Tensor]) -> None:
        """Add a step and go back into the budget; outside the mask nothing changes. Changes `delta` in place.

        Args:
            step: rows -> what to add there, `c rows w` in levels. Asked band by band, so that large photos need no
                copies of themselves.
        """
        for rows in bands(self.pixels.shape[1]):
            band = self.delta[:, rows]
            band += step(rows)
            if self.budget.norm != "l2":
                room = None if self.room is None else self.room[:, rows]
                band.copy_(self.budget.project(band, self.pixels[:, rows], room))
            if self.photo.mask is not None:
                band *= self.photo.mask[rows]
        if self.budget.norm == "l2":
            self.delta = self.budget.project(self.delta, self.pixels)

    def view(self, square: Square, size: int, delta: Tensor | None, device: torch.device = _CPU) -> Tensor:
        """What a trainer sees of a square: `3 size size` in [-1, 1]. Differentiable with respect to `delta`.

        Photo and perturbation stay on the CPU, as large as they may be; what is cut out of them is resized elsewhere.

        Differs from resizing in the photo's colour space: with a profile that is not sRGB, the change is carried over
        to sRGB as it is, because the conversion's derivative is close to one.

        Args:
            square: where.
            size: of the model's training images.
            delta: `c h w` in levels, on the CPU; None sees the original.
            device: where it is resized: the base's.
        """
        if delta is None:
            key = square, size, device
            if key not in self._originals:
                self._originals[key] = self._resized(square, size, None, device)
            return self._originals[key]
        return self._resized(square, size, delta, device)

    def _resized(self, square: Square, size: int, delta: Tensor | None, device: torch.device) -> Tensor:
        rows = slice(square.top, square.top + square.side)
        columns = slice(square.left, square.left + square.side)
        base = self.pixels if self.photo.srgb is None else self.photo.srgb
        levels = base[:, rows, columns].float()
        if delta is not None:
            levels = levels + delta[:, rows, columns]
        image = (levels.to(device).expand(3, -1, -1) / 127.5 - 1)[None]
        if square.side != size:
            image = F.interpolate(image, size=(size, size), mode="bicubic", antialias=True, align_corners=False)
        return image[0].clamp(-1, 1)

    def result(self) -> Tensor:
        """The protected samples on the integer grid, uint8 `c h w`."""
        result = self.pixels.clone()
        height = self.pixels.shape[1]
        # Only an L2 budget must see the whole photo at once to round it.
        for rows in [slice(0, height)] if self.budget.norm == "l2" else bands(height):
            room = None if self.room is None else self.room[:, rows]
            delta = self.budget.quantise(self.delta[:, rows], self.pixels[:, rows], room)
            if self.photo.mask is not None:
                delta = delta * self.photo.mask[rows]
            result[:, rows] = (self.pixels[:, rows].to(torch.int16) + delta).to(torch.uint8)
        return result


class CanvasViews:
    """What a surrogate trains on: all the large squares of some photos, `3 size size` in [-1, 1], on the CPU. Each is
    resized when it is asked for: few of many are drawn.

    Args:
        canvases: the photos.
        views: which squares; their zooms do not matter.
        size: of the model's training images.
        protected: as the photos are at that moment; False: the originals.
    """

    def __init__(self, canvases: Sequence[Canvas], views: Views, size: int, *, protected: bool) -> None:
        large = dataclasses.replace(views, zooms=(1.0,))
        self._places = [(canvas, square) for canvas in canvases for square in large.squares(*canvas.photo.size)]
        self._size, self._protected = size, protected

    def __len__(self) -> int:
        return len(self._places)

    @torch.no_grad()
    def __getitem__(self, index: int) -> Tensor:
        canvas, square = self._places[index]
        return canvas.view(square, self._size, canvas.delta if self._protected else None)


def bands(height: int) -> Iterator[slice]:
    """Rows of a photo in slices of at most `_BAND`."""
    for top in range(0, height, _BAND):
        yield slice(top, min(top + _BAND, height))
