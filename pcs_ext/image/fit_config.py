"""How to optimise."""

import math
from typing import Literal

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.optimizer import OptimizerName

_COOLDOWN = 0.15


@config
class FitConfig:
    """How to optimise."""

    steps: int
    """Optimiser steps, at least 1."""
    seed: int = 0
    """Of the generators handed to the loss, and of dropout inside models."""
    gradient_accumulation: int = 1
    """Micro-batches whose gradients are averaged into one step."""
    lr_schedule: Literal["constant", "linear", "cosine", "cooldown"] = "constant"
    """Shape of the learning rate after warm-up: flat, down to zero at the last step, or flat and down to zero over the
    last 15 % of the steps, for runs whose steps may grow later (1 - sqrt; Hägele et al. 2024, arXiv 2405.18392)."""
    warmup_steps: int = 0
    """Steps of linear rise from zero."""
    max_gradient_norm: float | None = 1.0
    """Clip the norm over all groups; None does not clip."""
    optimizer: OptimizerName = "adamw"
    """adamw: decoupled decay (Loshchilov and Hutter 2019, arXiv 1711.05101). adam: decay added to the gradient.
    sgd: with momentum `betas[0]`. cma_es: no gradients, an evolution strategy for up to 2,048 numbers (Hansen 2016,
    arXiv 1604.00772), whose steps are generations and whose learning rates are the first standard deviations."""
    population: int = 20
    """Candidates of a generation of cma_es, at least 4: each asks the loss once per micro-batch."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decays of the averages of gradients and of their squares, in [0, 1)."""
    eps: float = 1e-8
    """Added to the root of the second moment."""
    autocast: Literal["none", "bf16", "fp16"] = "none"
    """Precision of the forward pass; parameters, gradients and moments stay float32. fp16 needs CUDA and scales the
    loss; bf16 runs everywhere and is faster on CPUs with AMX or AVX512_BF16."""
    ema_decay: float | None = None
    """Decay of an exponential average of the parameters, warmed up as min(decay, (1 + step) / (10 + step))."""
    checkpoint_every_seconds: float | None = 45.0
    """Save after the first step that ends this much later than the last save, and ten times as much later as that took;
    None: not by time."""
    checkpoint_every_steps: int | None = None
    """Save after every multiple of this many steps; None: not by steps."""
    max_skipped_steps: int = 5
    """Give up after this many steps in a row whose loss or gradient is not finite. With fp16, 16 more, because the
    search for the loss scale skips steps as well."""

    def __post_init__(self) -> None:
        _require(self.steps >= 1, "steps", self.steps, "at least 1")
        _require(self.gradient_accumulation >= 1, "gradient_accumulation", self.gradient_accumulation, "at least 1")
        _require(self.warmup_steps >= 0, "warmup_steps", self.warmup_steps, "0 or more")
        _require(self.max_gradient_norm is None or self.max_gradient_norm > 0, "max_gradient_norm",
                 self.max_gradient_norm, "positive, or null to switch clipping off")  # fmt: skip
        _require(all(0 <= beta < 1 for beta in self.betas), "betas", self.betas, "two numbers in [0, 1)")
        _require(self.eps > 0, "eps", self.eps, "positive")
        _require(self.ema_decay is None or 0 < self.ema_decay < 1, "ema_decay", self.ema_decay, "in (0, 1), or null")
        _require(self.population >= 4, "population", self.population, "at least 4")
        every = self.checkpoint_every_steps
        _require(every is None or every >= 1, "checkpoint_every_steps", every, "at least 1, or null")
        _require(self.max_skipped_steps >= 0, "max_skipped_steps", self.max_skipped_steps, "0 or more")

    @property
    def skips_allowed(self) -> int:
        """Bad steps in a row that do not end the run yet."""
        return self.max_skipped_steps + (16 if self.autocast == "fp16" else 0)


def _require(holds: bool, field: str, got: object, expected: str) -> None:
    if not holds:
        raise ConfigError(f"{field} of the optimisation must be {expected}, got {got}.")


def lr_factor(step: int, config: FitConfig) -> float:
    """Learning rate in step `step` (0 is the first), relative to the group's."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    if config.lr_schedule == "linear":
        return 1 - progress
    if config.lr_schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    if config.lr_schedule == "cooldown":
        return 1 - math.sqrt(max(0.0, progress - 1 + _COOLDOWN) / _COOLDOWN)
    return 1.0
