"""Small problems for the optimisation loop."""

from typing import Any

import torch
from torch import Tensor, nn

from pcs_ext.image.fit import AbstractRun, FitConfig, fit
from pcs_ext.image.types import FitState, LossTerms, ParameterGroup


class Problem:
    """Least squares with its own random batches."""

    def __init__(self, batch: int = 4) -> None:
        self.model: Any = nn.Linear(5, 3)
        with torch.no_grad():
            self.model.weight.fill_(0.1)
            self.model.bias.zero_()
        self.batch = batch

    @property
    def groups(self) -> list[ParameterGroup]:
        """Two groups of different settings."""
        return [
            ParameterGroup(name="w", parameters=(self.model.weight,), learning_rate=1e-2, weight_decay=0.1),
            ParameterGroup(name="b", parameters=(self.model.bias,), learning_rate=1e-3),
        ]

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """Two terms."""
        x = torch.randn(self.batch, 5, generator=generator)
        error = self.model(x) - x[:, :3]
        return LossTerms({"error": error.square().mean(), "size": 1e-3 * self.model.weight.square().sum()})


class Images(Problem):
    """A convolution in channels_last with dropout: memory layouts and global randomness must survive a resume."""

    def __init__(self) -> None:
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Dropout(0.3), nn.Conv2d(4, 3, 3, padding=1))
        self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]

    @property
    def groups(self) -> list[ParameterGroup]:
        """One."""
        return [ParameterGroup(name="all", parameters=tuple(self.model.parameters()), learning_rate=1e-2)]

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """Reproduce the input."""
        x = torch.randn(2, 3, 6, 6, generator=generator).contiguous(memory_format=torch.channels_last)
        return LossTerms({"error": (self.model(x) - x).square().mean()})


CONFIG = FitConfig(steps=12, gradient_accumulation=2, lr_schedule="cosine", warmup_steps=3, ema_decay=0.9)


def run(problem: Problem, config: FitConfig = CONFIG, **options: Any) -> list[FitState]:
    """All steps."""
    return list(fit(problem, problem.groups, config, **options))


def everything(run: AbstractRun) -> dict[str, Tensor]:
    """Copies of all that a checkpoint would hold."""
    return {name: tensor.clone() for name, tensor in run.tensors().items()}
