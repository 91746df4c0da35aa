"""What every reader offers: times first, then only the frames that are wanted."""

from collections.abc import Iterator
from typing import Protocol

import numpy as np


class Source(Protocol):
    """An opened clip."""

    times: np.ndarray
    """Seconds at which each frame appears, ascending, from 0."""
    rate: float | None
    """Frames per second that the file states, if it does; counts only where `times` holds one frame."""
    height: int
    width: int
    """Of the frames that `read` yields."""
    pixel_aspect: float
    """Width of a pixel over its height."""
    notes: list[str]

    def read(self, indices: list[int]) -> Iterator[np.ndarray]:
        """One `h w 3` or `h w 4` uint8 frame per index; indices do not descend."""
        ...
