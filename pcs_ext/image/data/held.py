"""Pixels held as the 8-bit levels that they were read as, a quarter of float32's memory, and told as floats."""

from typing import Any

import torch
from torch import Tensor


class HeldAsLevels:
    """A field of a dataclass that tells float32 tensors: those that it was given, or those of uint8 levels.

    What is given as levels is held as such, and told anew whenever somebody asks.

    Args:
        low: what level 0 means; level 255 is 1.
        optional: whether the field may be None, and is where nobody says otherwise.
    """

    def __init__(self, low: float, *, optional: bool = False) -> None:
        self.low, self.optional, self.name = low, optional, ""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        if instance is not None:
            held = self.held(instance)
            return held if held is None or held.dtype != torch.uint8 else shares_of(held) * (1 - self.low) + self.low
        if not self.optional:  # asked by `dataclass` for the field's default
            raise AttributeError(self.name)
        return None

    def __set__(self, instance: Any, value: Tensor | None) -> None:
        vars(instance)[self.name] = value

    def held(self, instance: Any) -> Tensor | None:
        """What is held: levels, or floats as they were given."""
        return vars(instance)[self.name]


def shares_of(levels: Tensor) -> Tensor:
    """uint8 levels of any shape -> float32 in [0, 1]."""
    return levels.float() / 255
