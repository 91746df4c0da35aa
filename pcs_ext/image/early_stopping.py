"""DVAR (Voronov et al. 2023, arXiv 2302.04841): stop when a loss without randomness stops moving."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.fit import AbstractCriterion
from pcs_ext.image.types import FitState, LossTerms
from pcs_ext.runtime import generator_for, global_randomness


@config
class DvarConfig:
    """When to stop."""

    window: int = 200
    """Recent evaluations compared with all, at least 2 (the released code's default; its runs on photos took 282)."""
    threshold: float = 0.15
    """Stop when var(last window) / var(all) falls below this, in (0, 1) (default 0.15; on photos 0.39)."""
    every: int = 1
    """Steps between evaluations."""

    def __post_init__(self) -> None:
        if self.window < 2 or not 0 < self.threshold < 1 or self.every < 1:
            raise ConfigError(
                "dvar needs window >= 2, threshold in (0, 1) and every >= 1; "
                f"got {self.window}, {self.threshold} and {self.every}."
            )


class DvarStop(AbstractCriterion):
    """The stopping rule as `fit` asks for it. Its history is stored in checkpoints.

    The ordinary loss is evaluated with one seed for ever: the same images, captions, noise, timesteps and dropout
    every time, so that nothing but the weights moves it.

    Args:
        config: when to stop.
        loss: the training loss.
        seed: of that evaluation.
        micro_steps: batches of an evaluation, as many as a step of training has: of one picture at one timestep the
            loss may hardly depend on what is learned (the released code evaluates four).
    """

    def __init__(
        self,
        config: DvarConfig,
        loss: Callable[[int, int, torch.Generator], LossTerms],
        *,
        seed: int = 0,
        micro_steps: int = 1,
    ) -> None:
        self.config, self.loss, self.seed, self.micro_steps = config, loss, seed, micro_steps
        self.history: list[float] = []

    def __call__(self, state: FitState) -> bool:
        """Evaluate and decide."""
        if state.step % self.config.every:
            return False
        with torch.no_grad(), global_randomness(state.numbers.device, self.seed, "dvar-dropout"):
            generator = generator_for(self.seed, "dvar")
            losses = [float(self.loss(0, index, generator).total) for index in range(self.micro_steps)]
        self.history.append(sum(losses) / len(losses))
        self.finished = should_stop(self.history, self.config)
        return self.finished

    def state_dict(self) -> dict[str, Any]:
        """Evaluations so far and the verdict."""
        return {"history": torch.tensor(self.history, dtype=torch.float64), "finished": self.finished}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.history, self.finished = state["history"].tolist(), bool(state["finished"])


def should_stop(history: Sequence[float], config: DvarConfig) -> bool:
    """Whether the variance of the last window is a small enough share of the variance of the whole history.

    Not before there is more history than one window. Evaluations that are not finite never stop a run.
    """
    if len(history) <= config.window:
        return False
    losses = torch.tensor(history, dtype=torch.float64)
    total = losses.var(correction=0)
    return bool(total > 0) and bool(losses[-config.window :].var(correction=0) / total < config.threshold)
