"""Axes for small plots: which numbers to write, and where they lie."""

import dataclasses
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True, kw_only=True)
class Axis:
    """A linear scale from values to drawing units."""

    low: float
    """Value at `start`."""
    high: float
    """Value at `end`."""
    start: float
    """Drawing units; may be larger than `end` (y grows downwards in SVG)."""
    end: float
    """Drawing units."""

    def __call__(self, value: float) -> float:
        """Drawing units of a value."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, about: int = 5) -> list[float]:
        """Round values inside the axis, about so many."""
        step = _round_step((self.high - self.low) / about)
        first = math.ceil(self.low / step - 1e-9)
        return [index * step for index in range(first, math.floor(self.high / step + 1e-9) + 1)]


def axis_for(values: Sequence[float], start: float, end: float, *, padding: float = 0.12) -> Axis:
    """An axis that holds all values with some room on both sides."""
    low, high = min(values), max(values)
    # Differences far below what a label could show count as none.
    room = padding * (high - low) if high - low > 1e-6 * max(1.0, abs(low), abs(high)) else 0.05 * max(1.0, abs(high))
    return Axis(low=low - room, high=high + room, start=start, end=end)


def _round_step(step: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * (1 - 1e-12))


def tick_label(value: float, ticks: Sequence[float]) -> str:
    """As many decimals as the ticks' step needs."""
    step = ticks[1] - ticks[0] if len(ticks) > 1 else abs(value) or 1.0
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return f"{value:.{decimals}f}"
