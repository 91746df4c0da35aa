"""Elastic weight consolidation (Kirkpatrick et al. 2017, arXiv 1612.00796): weights that mattered before stay near."""

import contextlib
from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.image.fit import Loss
from pcs_ext.image.types import ParameterGroup
from pcs_ext.runtime import generator_for


class Consolidation:
    """1/2 sum_i F_i (w_i - w*_i)^2 over all parameters, w* being where they are now (eq. 3, without its lambda).

    F is the diagonal of the empirical Fisher information: the mean, over micro-batches, of squared gradients of the
    losses of what was learned before.

    Args:
        losses: of the earlier phases with their steps, each asked for `samples` micro-batches all along them.
        groups: what trains next; only what had a gradient before is held.
        samples: micro-batches of each loss.
        seed: of what is drawn.
        autocast: in which the losses are computed, as they were when they trained.
    """

    def __init__(
        self,
        losses: Sequence[tuple[Loss, int]],
        groups: Sequence[ParameterGroup],
        samples: int,
        seed: int,
        autocast: contextlib.AbstractContextManager[object],
    ) -> None:
        self.parameters = [parameter for group in groups for parameter in group.parameters]
        self.anchors = [parameter.detach().clone() for parameter in self.parameters]
        self.importance = [torch.zeros_like(anchor) for anchor in self.anchors]
        with autocast:
            for index, (loss, steps) in enumerate(losses):
                for sample in range(samples):
                    # All along the phase: what its loss asks for may change from step to step.
                    step = int((sample + 0.5) / samples * steps)
                    self._add(loss, step, generator_for(seed, "consolidation", index, sample), samples * len(losses))

    def _add(self, loss: Loss, step: int, generator: torch.Generator, count: int) -> None:
        total = loss(step, 0, generator).total
        gradients = torch.autograd.grad(total, self.parameters, allow_unused=True)
        for importance, gradient in zip(self.importance, gradients, strict=True):
            if gradient is not None:
                importance.add_(gradient.float().square(), alpha=1 / count)

    def __call__(self) -> Tensor:
        """The term, 0-d, differentiable."""
        terms = [
            (importance * (parameter - anchor).square()).sum()
            for importance, parameter, anchor in zip(self.importance, self.parameters, self.anchors, strict=True)
        ]
        return torch.stack(terms).sum() / 2
