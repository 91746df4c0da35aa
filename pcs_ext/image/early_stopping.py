"""DVAR (Voronov et al. 2023, arXiv 2302.04841): stop when a loss without randomness stops moving."""

from collections.abc import Callable

import torch

from pcs_ext.config_io import config
from pcs_ext.image.types import FitState, LossTerms
from pcs_ext.runtime import generator_for


@config
class DvarConfig:
    """When to stop."""

    window: int = 200
    """Recent evaluations compared with all (the released code's default)."""
    threshold: float = 0.15
    """Stop when var(last window) / var(all) falls below this."""
    every: int = 1
    """Steps between evaluations."""


class DvarStop:
    """The stopping rule as `fit` asks for it.

    Args:
        config: when to stop.
        loss: the training loss; it is always evaluated with the same generator seed, so that images, noise, timesteps
            and captions are the same every time and nothing but the weights moves it.
        seed: of that generator.
    """

    def __init__(
        self, config: DvarConfig, loss: Callable[[int, int, torch.Generator], LossTerms], *, seed: int = 0
    ) -> None:
        self.config, self.loss, self.seed = config, loss, seed
        self.history: list[float] = []

    def __call__(self, state: FitState) -> bool:
        """Evaluate and decide."""
        if state.step % self.config.every:
            return False
        with torch.no_grad():
            self.history.append(float(self.loss(0, 0, generator_for(self.seed, "dvar")).total))
        return should_stop(self.history, self.config)


def should_stop(history: list[float], config: DvarConfig) -> bool:
    """Whether the variance of the last window is a small enough share of the variance of the whole history."""
    if len(history) <= config.window:
        return False
    losses = torch.tensor(history, dtype=torch.float64)
    total = losses.var(correction=0)
    return bool(total > 0) and bool(losses[-config.window :].var(correction=0) / total < config.threshold)
