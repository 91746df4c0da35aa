"""How far a protected photo may be from its original: stated in 8-bit levels, kept on the integer grid, checked.

One level is 1/255 of [0, 1] and 2/255 of [-1, 1]. The engine projects after every step and rounds once, before the
file is written; nobody trusts a method to keep the bound.
"""

import dataclasses
import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError

Norm = Literal["linf", "l2", "perceptual"]
TensorRange = Literal["[0,255]", "[0,1]", "[-1,1]"]
_LEVELS_PER_UNIT: dict[TensorRange, float] = {"[0,255]": 1.0, "[0,1]": 255.0, "[-1,1]": 127.5}
_SLACK = 1e-6
"""Relative room for float32 sums when an L2 budget is checked."""


def to_levels(value: float, tensor_range: TensorRange) -> float:
    """A step or L-infinity bound in a paper's tensor range -> levels: 0.05 on [-1, 1] is 6.375."""
    return value * _LEVELS_PER_UNIT[tensor_range]


def from_levels(levels: float, tensor_range: TensorRange) -> float:
    """Inverse of `to_levels`."""
    return levels / _LEVELS_PER_UNIT[tensor_range]


def l2_to_levels(norm: float, tensor_range: TensorRange, samples: int) -> float:
    """An L2 norm over `samples` numbers -> root mean square in levels: 16 on [-1, 1] at 3 x 512 x 512 is 2.30."""
    return to_levels(norm, tensor_range) / math.sqrt(samples)


@config
class Budget:
    """The largest allowed change of a photo."""

    norm: Norm = "linf"
    """linf: no sample changes by more than `levels`. l2: the root mean square over all samples is at most `levels`,
    which does not depend on the photo's size; samples outside a region count, so that a small one may change much.
    perceptual: linf, but with less room where the picture is smooth (see `room`)."""
    levels: float = 8.0
    """In 8-bit levels, in (0, 255]."""
    floor: float = 0.25
    """perceptual: the share of `levels` left in perfectly smooth places, in (0, 1]."""

    def __post_init__(self) -> None:
        if not 0 < self.levels <= 255:
            raise ConfigError(f"the budget must be above 0 and at most 255 levels, got {self.levels}.")
        if not 0 < self.floor <= 1:
            raise ConfigError(f"floor of the budget must be in (0, 1], got {self.floor}.")

    def room(self, pixels: Tensor) -> Tensor | None:
        """Largest change per place, `1 h w` in levels, or None where it is the same everywhere.

        perceptual: levels * (floor + (1 - floor) * min(1, s / levels)), s being the local standard deviation of the
        luma in a window of 9 x 9: a change hides in texture of its own strength (contrast masking).

        Args:
            pixels: `c h w` in [0, 255].
        """
        if self.norm != "perceptual":
            return None
        luma = pixels.float().mean(0, keepdim=True)[None]
        padded = F.pad(luma, (4, 4, 4, 4), mode="replicate")
        mean, square = F.avg_pool2d(padded, 9, 1), F.avg_pool2d(padded.square(), 9, 1)
        spread = (square - mean.square()).clamp_min(0).sqrt()[0]
        return self.levels * (self.floor + (1 - self.floor) * (spread / self.levels).clamp_max(1))

    def project(self, delta: Tensor, pixels: Tensor, room: Tensor | None = None) -> Tensor:
        """The nearest allowed change (Euclidean for l2, per sample otherwise) that keeps pixels in [0, 255].

        Args:
            delta: `c h w` in levels.
            pixels: `c h w` in [0, 255], same shape.
            room: of `room(pixels)`, if already known.
        """
        pixels = pixels.to(delta.dtype)
        if self.norm == "l2":
            delta = torch.minimum(torch.maximum(delta, -pixels), 255 - pixels)
            return delta * min(1.0, self.levels / max(float(_rms(delta)), 1e-12))
        bound = self.levels if self.norm == "linf" else self._room(pixels, room)
        return torch.minimum(torch.maximum(delta.clamp(-bound, bound), -pixels), 255 - pixels)  # pyright: ignore

    def _room(self, pixels: Tensor, room: Tensor | None) -> Tensor:
        found = self.room(pixels) if room is None else room
        assert found is not None
        return found

    def quantise(self, delta: Tensor, pixels: Tensor, room: Tensor | None = None) -> Tensor:
        """The change on the integer grid, still within the budget, int16.

        Differs from the released scripts, which round or cut the sum: 12.75 levels then become 13 (0.10 on [-1, 1]),
        and Mist's truncation turns 16 into -17..+16. Here the bound is rounded down first.

        Args:
            delta: `c h w` in levels.
            pixels: `c h w` whole numbers in [0, 255].
            room: of `room(pixels)`, if already known.
        """
        delta = self.project(delta, pixels, room)
        if self.norm == "l2":
            return self._shrunk(delta).to(torch.int16)
        # In Python's precision: in float32 a hair under 2 is 2.
        most = math.floor(self.levels)
        bound = torch.full((), most) if self.norm == "linf" else torch.floor(self._room(pixels, room)).clamp_max(most)
        return torch.minimum(torch.maximum(delta.round(), -bound), bound).to(torch.int16)

    def _shrunk(self, delta: Tensor) -> Tensor:
        """Rounding can lengthen a vector: the largest multiple of `delta`, by bisection, that stays within."""
        if float(_rms(delta.round())) <= self.levels:
            return delta.round()
        low, high = 0.0, 1.0
        for _ in range(20):
            middle = (low + high) / 2
            within = float(_rms((middle * delta).round())) <= self.levels
            low, high = (middle, high) if within else (low, middle)
        return (low * delta).round()

    def check(self, changed: Tensor, pixels: Tensor) -> "BudgetCheck":
        """Compare two decoded pictures `c h w` of 8-bit values with this budget."""
        delta = changed.to(torch.int16) - pixels.to(torch.int16)
        largest, rms = float(delta.abs().max()), float(_rms(delta.float()))
        if self.norm == "l2":
            within = rms <= self.levels * (1 + _SLACK)
        elif self.norm == "linf":
            within = largest <= self.levels
        else:
            within = bool((delta.abs() <= self._room(pixels, None) + 1e-4).all())
        return BudgetCheck(within=within, max_levels=largest, rms_levels=rms)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BudgetCheck:
    """What was found in a decoded file."""

    within: bool
    max_levels: float
    """Largest change of any sample."""
    rms_levels: float
    """Root mean square of the change."""


def _rms(delta: Tensor) -> Tensor:
    return torch.linalg.vector_norm(delta, dtype=torch.float64) / math.sqrt(delta.numel())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convention:
    """A budget as a released script prints it, and what it means."""

    method: str
    epsilon: float
    step_size: float
    tensor_range: TensorRange
    """Of the tensors that both numbers are applied to."""

    @property
    def budget_levels(self) -> float:
        """Epsilon in levels."""
        return to_levels(self.epsilon, self.tensor_range)

    @property
    def step_levels(self) -> float:
        """Step size in levels."""
        return to_levels(self.step_size, self.tensor_range)


CONVENTIONS: dict[str, Convention] = {
    convention.method: convention
    for convention in (
        # Read in the released scripts' defaults. The comment is what they print.
        Convention(method="fsmg", epsilon=0.05, step_size=0.005, tensor_range="[-1,1]"),  # 0.05, 0.005
        Convention(method="aspl", epsilon=0.05, step_size=0.005, tensor_range="[-1,1]"),  # 0.05, 0.005
        Convention(method="simac", epsilon=16 / 255, step_size=0.005, tensor_range="[-1,1]"),  # 16 (/255), 0.005
        Convention(method="caat", epsilon=0.05, step_size=0.005, tensor_range="[-1,1]"),  # 0.05, 0.005
        Convention(method="mist", epsilon=32 / 255, step_size=2 / 255, tensor_range="[-1,1]"),  # 16, 1, doubled inside
        Convention(method="advdm", epsilon=32 / 255, step_size=2 / 255, tensor_range="[-1,1]"),  # 16, 1, doubled inside
        Convention(method="sds", epsilon=32 / 255, step_size=2 / 255, tensor_range="[-1,1]"),  # 16, 1, doubled inside
        Convention(method="mist-v2", epsilon=8 / 255, step_size=0.005, tensor_range="[-1,1]"),  # 8/255, 0.005
        Convention(method="photoguard", epsilon=0.06, step_size=0.02, tensor_range="[-1,1]"),  # 0.06, 0.02 falling
        Convention(method="metacloak", epsilon=11, step_size=1.1, tensor_range="[0,255]"),  # 11, 1.1
        Convention(method="pid", epsilon=12.75 / 255, step_size=1 / 255, tensor_range="[0,1]"),  # 12.75/255, 1/255
    )
}
"""Budgets that look alike and are not: 0.05 is 6.4 levels for one method and 12.75 for another."""
