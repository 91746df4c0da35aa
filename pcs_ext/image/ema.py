"""Exponential averages of parameters."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn


class ExponentialAverage:
    """avg <- d avg + (1 - d) parameter after every step, with d = min(decay, (1 + step) / (10 + step)).

    The growing d keeps the first, random values from weighing for thousands of steps (as in the usual UNet trainings).

    Args:
        parameters: what is averaged; the averages start as copies of them.
        decay: d in the long run, in (0, 1).
    """

    def __init__(self, parameters: Sequence[nn.Parameter], decay: float) -> None:
        self.parameters: list[Tensor] = list(parameters)
        self.decay = decay
        self.averages = [parameter.detach().clone() for parameter in self.parameters]

    @torch.no_grad()
    def update(self, step: int, applied: Tensor) -> None:
        """Take in the parameters after step `step` (0 is the first).

        Args:
            step: how many steps were done before.
            applied: 1 where the step was done, 0 where it was skipped; on an accelerator it is never read by the host.
        """
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        if applied.device.type == "cpu":
            torch._foreach_lerp_(self.averages, self.parameters, weight * float(applied))
            return
        # A few kernels for all: one for each would cost a small model as much time as its whole step.
        changes = torch._foreach_sub(self.parameters, self.averages)
        torch._foreach_mul_(changes, weight * applied)
        torch._foreach_add_(self.averages, changes)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the parameters hold their averages (for sampling or saving); afterwards their own values again."""
        originals = [parameter.detach().clone() for parameter in self.parameters]
        self.settle()
        try:
            yield
        finally:
            self._assign(originals)

    def settle(self) -> None:
        """Put the averages into the parameters, for good."""
        self._assign(self.averages)

    @torch.no_grad()
    def _assign(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)
