"""The only optimisation loop: images, video, radiance fields and paths all train with it."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import CheckpointError, DivergedError, ResourceError
from pcs_ext.image.checkpoint import Checkpoint, CheckpointFolder
from pcs_ext.image.types import FitState, LossTerms, ParameterGroup
from pcs_ext.runtime import generator_for

Loss = Callable[[int, int, torch.Generator], LossTerms]
Stop = Callable[[FitState], bool]


@config
class FitConfig:
    """How to optimise."""

    steps: int
    """Optimiser steps."""
    seed: int = 0
    """Of the generators handed to the loss."""
    gradient_accumulation: int = 1
    """Micro-batches whose gradients are averaged into one step."""
    lr_schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Shape of the learning rate after warm-up: flat, or down to zero at the last step."""
    warmup_steps: int = 0
    """Steps of linear rise from zero."""
    max_gradient_norm: float | None = 1.0
    """Clip the norm over all groups; None does not clip."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's averages."""
    eps: float = 1e-8
    """AdamW's epsilon."""
    autocast: Literal["none", "bf16"] = "none"
    """Precision of the forward pass; parameters, gradients and moments stay as they are (float32 masters)."""
    ema_decay: float | None = None
    """Decay of an exponential average of the parameters, warmed up as min(decay, (1 + step) / (10 + step))."""
    checkpoint_every_seconds: float = 45.0
    """Save after the first step that ends this much later than the last save."""
    max_skipped_steps: int = 5
    """Give up after this many steps in a row whose loss or gradient is not finite."""


class Fit:
    """State of an optimisation: parameters, AdamW moments, averages. Most callers use `fit`."""

    def __init__(self, loss: Loss, groups: Sequence[ParameterGroup], config: FitConfig) -> None:
        self.loss, self.groups, self.config = loss, groups, config
        self.parameters = [parameter for group in groups for parameter in group.parameters]
        if not self.parameters:
            raise CheckpointError("fit got no parameters to train; expected at least one group with one.")
        self.optimizer = torch.optim.AdamW(
            [
                {"params": list(group.parameters), "lr": group.learning_rate, "weight_decay": group.weight_decay}
                for group in groups
            ],
            betas=config.betas,
            eps=config.eps,
        )
        self.step = 0
        self.skipped_in_a_row = 0
        self.whole = True
        self.averages: list[Tensor] = []
        if config.ema_decay is not None:
            self.averages = [parameter.detach().clone() for parameter in self.parameters]

    def advance(self) -> FitState:
        """One optimiser step."""
        factor = lr_factor(self.step, self.config)
        for settings, group in zip(self.optimizer.param_groups, self.groups, strict=True):
            settings["lr"] = group.learning_rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        losses = self._backward()
        norm = self._gradient_norm()
        finite = all(math.isfinite(value) for value in losses.values()) and math.isfinite(norm)
        # An interruption from here to the end of the step leaves parameters of two steps mixed: never save those.
        self.whole = False
        if finite:
            self.optimizer.step()
            self._average()
        self._count_skips(finite)
        self.step += 1
        self.whole = True
        return FitState(
            step=self.step,
            total_steps=self.config.steps,
            losses=losses,
            learning_rate=self.groups[0].learning_rate * factor,
            gradient_norm=norm,
            skipped=not finite,
        )

    def _backward(self) -> dict[str, float]:
        sums: dict[str, Tensor] = {}
        count = self.config.gradient_accumulation
        device = self.parameters[0].device.type
        for micro_step in range(count):
            generator = generator_for(self.config.seed, "fit", self.step, micro_step)
            with torch.autocast(device, torch.bfloat16, enabled=self.config.autocast == "bf16"):
                terms = self.loss(self.step, micro_step, generator)
            total = terms.total
            (total / count).backward()
            for name, term in {**terms.terms, "total": total}.items():
                sums[name] = sums.get(name, 0) + term.detach().float() / count
        # One transfer for all numbers of the step.
        values = torch.stack([value.reshape(()) for value in sums.values()]).tolist()
        return dict(zip(sums, values, strict=True))

    def _gradient_norm(self) -> float:
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        if not gradients:
            return 0.0
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.config.max_gradient_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.config.max_gradient_norm, norm)
        return float(norm)

    @torch.no_grad()
    def _average(self) -> None:
        if self.averages:
            assert self.config.ema_decay is not None
            decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
            torch._foreach_lerp_(self.averages, list(self.parameters), 1 - decay)

    def _count_skips(self, finite: bool) -> None:
        self.skipped_in_a_row = 0 if finite else self.skipped_in_a_row + 1
        if self.skipped_in_a_row > self.config.max_skipped_steps:
            raise DivergedError(
                f"the loss or its gradient was not finite in {self.skipped_in_a_row} steps in a row, up to step "
                f"{self.step}; expected finite numbers. Lower the learning rate, or use --precision fp32."
            )

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the parameters hold their exponential averages (for sampling or saving)."""
        if not self.averages:
            yield
            return
        originals = [parameter.detach().clone() for parameter in self.parameters]
        self._assign(self.averages)
        try:
            yield
        finally:
            self._assign(originals)

    @torch.no_grad()
    def _assign(self, values: Sequence[Tensor]) -> None:
        for parameter, value in zip(self.parameters, values, strict=True):
            parameter.copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """Everything a resumed run needs, by name."""
        found: dict[str, Tensor] = {}
        for index, (name, parameter) in enumerate(self._named()):
            found[f"parameter/{name}"] = parameter.data
            for key, value in self.optimizer.state.get(parameter, {}).items():
                found[f"optimizer/{name}/{key}"] = value
            if self.averages:
                found[f"average/{name}"] = self.averages[index]
        return found

    def _named(self) -> list[tuple[str, torch.nn.Parameter]]:
        return [
            (f"{group.name}/{i}", parameter) for group in self.groups for i, parameter in enumerate(group.parameters)
        ]

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: its parameters are not this run's.
        """
        for index, (name, parameter) in enumerate(self._named()):
            value = checkpoint.tensors.get(f"parameter/{name}")
            if value is None or value.shape != parameter.shape:
                got = "nothing" if value is None else f"shape {tuple(value.shape)}"
                raise CheckpointError(f"the checkpoint has {got} for {name}; expected shape {tuple(parameter.shape)}.")
            parameter.copy_(value)
            self._restore_optimizer(name, parameter, checkpoint.tensors)
            if self.averages:
                self.averages[index].copy_(checkpoint.tensors[f"average/{name}"])
        self.step = checkpoint.step
        self.skipped_in_a_row = checkpoint.state["skipped_in_a_row"]

    def _restore_optimizer(self, name: str, parameter: torch.nn.Parameter, tensors: Mapping[str, Tensor]) -> None:
        prefix = f"optimizer/{name}/"
        state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        if state:
            # AdamW keeps its step counter on the CPU.
            self.optimizer.state[parameter] = {
                key: value if key == "step" else value.to(parameter.device) for key, value in state.items()
            }

    def save(self, checkpoints: CheckpointFolder) -> None:
        """Write a checkpoint of the present step."""
        checkpoints.save(self.step, self.tensors(), {"skipped_in_a_row": self.skipped_in_a_row})


def fit(
    loss: Loss,
    groups: Sequence[ParameterGroup],
    config: FitConfig,
    *,
    checkpoints: CheckpointFolder | None = None,
    stop: Stop | None = None,
    on_start: Callable[[Fit], None] | None = None,
) -> Iterator[FitState]:
    """Minimise a loss; yields after every step, so that the caller logs, previews and stops.

    A run that was killed goes on, in the next call, from the newest checkpoint; on the CPU the result is the same bit
    for bit as without the interruption, because step k draws everything from `generator_for(seed, "fit", k, micro)`.
    Leaving the loop (break, an exception, Ctrl-C) saves a last checkpoint.

    Args:
        loss: `(step, micro_step, generator) -> LossTerms`, scalar terms connected to the parameters.
        groups: what trains.
        config: how.
        checkpoints: where to save and resume; None keeps nothing.
        stop: asked after every step; True ends the run early.
        on_start: receives the `Fit`, for instance to sample with the averaged weights later.

    Raises:
        DivergedError: too many steps in a row were not finite.
        CheckpointError: no checkpoint can be used although some exist.
        ResourceError: out of memory or disk.
    """
    run = Fit(loss, groups, config)
    if checkpoints is not None:
        checkpoints.sweep()
        found = checkpoints.latest()
        if found is not None:
            run.restore(found)
    if on_start is not None:
        on_start(run)
    saved_step, saved_at = run.step, time.monotonic()
    try:
        while run.step < config.steps:
            state = _advance(run)
            if checkpoints is not None and time.monotonic() - saved_at > config.checkpoint_every_seconds:
                run.save(checkpoints)
                saved_step, saved_at = run.step, time.monotonic()
            yield state
            if stop is not None and stop(state):
                break
    finally:
        if checkpoints is not None and run.whole and run.step != saved_step and run.skipped_in_a_row == 0:
            run.save(checkpoints)


def _advance(run: Fit) -> FitState:
    try:
        return run.advance()
    except torch.OutOfMemoryError as error:
        raise ResourceError(
            f"out of memory in step {run.step} ({str(error).splitlines()[0]}). Lower batch_size and raise "
            "gradient_accumulation, or choose a smaller base."
        ) from None


def lr_factor(step: int, config: FitConfig) -> float:
    """Learning rate in step `step` (0 is the first), relative to the group's."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = (step - config.warmup_steps) / max(config.steps - config.warmup_steps, 1)
    if config.lr_schedule == "linear":
        return 1 - progress
    if config.lr_schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * progress))
    return 1.0
