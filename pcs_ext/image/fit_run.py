"""One optimisation in progress: what a step does, and what must be stored to go on from it."""

import abc
import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from pcs_ext.errors import CheckpointError, ConfigError, DivergedError
from pcs_ext.image.checkpoint import Checkpoint
from pcs_ext.image.ema import ExponentialAverage
from pcs_ext.image.fit_config import FitConfig, lr_factor
from pcs_ext.image.optimizer import (
    LossScale,
    build_optimizer,
    named_parameters,
    optimizer_tensors,
    restore_optimizer,
    updates_in_backward,
)
from pcs_ext.image.types import FitState, LossTerms, ParameterGroup
from pcs_ext.runtime import generator_for, global_randomness

Loss = Callable[[int, int, torch.Generator], LossTerms]
AUTOCAST = {"none": torch.bfloat16, "bf16": torch.bfloat16, "fp16": torch.float16}


class Stateful(Protocol):
    """Something beside the parameters that a resumed run must get back."""

    def state_dict(self) -> dict[str, Any]:
        """Tensors and JSON-able values by name."""
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        ...


class AbstractRun(abc.ABC):
    """State of an optimisation: parameters, averages, counters. What a step measures and does is the subclass's.

    Args:
        loss: see `fit`.
        groups: what trains, in float32.
        config: how.

    Raises:
        ConfigError: the groups or the precision cannot be trained.
    """

    def __init__(self, loss: Loss, groups: Sequence[ParameterGroup], config: FitConfig) -> None:
        self.loss, self.groups, self.config = loss, groups, config
        self.named = named_parameters(groups)
        self.parameters = list(self.named.values())
        self.device = self.parameters[0].device
        self.step = 0
        self.whole = True
        """False while a step changes the parameters: an interruption then leaves two steps mixed, never to be saved."""
        self.average = None if config.ema_decay is None else ExponentialAverage(self.parameters, config.ema_decay)
        if config.autocast == "fp16" and self.device.type != "cuda":
            raise ConfigError(f"autocast fp16 needs CUDA, the parameters are on {self.device}; use bf16 or none.")
        self.skipped_in_a_row = torch.zeros((), dtype=torch.int64, device=self.device)
        self._longest_skip = torch.zeros_like(self.skipped_in_a_row)

    @abc.abstractmethod
    def _measure(self, factor: float) -> tuple[dict[str, Tensor], Tensor]:
        """The step's losses by name, `total` last, and its gradient norm or what stands for it; 0-d each.

        Args:
            factor: on the groups' learning rates.
        """

    @abc.abstractmethod
    def _apply(self, applied: Tensor) -> None:
        """Change the parameters by what was measured where `applied` is 1, not at all where it is 0."""

    @abc.abstractmethod
    def _own_tensors(self) -> dict[str, Tensor]:
        """What else a checkpoint must hold, live."""

    @abc.abstractmethod
    def _restore_own(self, checkpoint: Checkpoint) -> None:
        """Inverse of `_own_tensors`."""

    def advance(self, after_step: Sequence[Callable[[int], None]] = ()) -> FitState:
        """One step, then the hooks with the number of steps done.

        Raises:
            DivergedError: too many steps in a row were not finite.
        """
        factor = lr_factor(self.step, self.config)
        losses, norm = self._measure(factor)
        numbers = torch.stack([*losses.values(), norm.float()])
        applied = torch.isfinite(numbers).all().float()
        self.whole = False
        self._apply(applied)
        self.skipped_in_a_row = (self.skipped_in_a_row + 1) * (1 - applied.long())
        self._longest_skip = torch.maximum(self._longest_skip, self.skipped_in_a_row)
        self.step += 1
        with torch.no_grad():
            for hook in after_step:
                hook(self.step)
        if self.average is not None:
            self.average.update(self.step - 1, applied)
        self.whole = True
        self._guard()
        return FitState(
            step=self.step,
            total_steps=self.config.steps,
            learning_rate=self.groups[0].learning_rate * factor,
            terms=tuple(losses)[:-1],
            numbers=torch.cat([numbers, 1 - applied.reshape(1)]),
        )

    def _guard(self) -> None:
        """Read the skips: for free on the CPU; elsewhere only every few steps, so that the queue never runs dry."""
        allowed = self.config.skips_allowed
        if self.device.type != "cpu" and self.step % (allowed + 1) and self.step < self.config.steps:
            return
        longest = int(self._longest_skip)
        if longest > allowed:
            raise DivergedError(
                f"the loss or its gradient was not finite in {longest} steps in a row, up to step {self.step}; "
                "expected finite numbers. Lower the learning rate, or use --precision fp32."
            )

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """Inside, the parameters hold their exponential averages, if there are any (for sampling or saving)."""
        with contextlib.nullcontext() if self.average is None else self.average.swapped():
            yield

    def keep_averages(self) -> None:
        """Put the exponential averages, if there are any, into the parameters: what was learned."""
        if self.average is not None:
            self.average.settle()

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint holds, by name."""
        found = {f"parameter/{name}": parameter.data for name, parameter in self.named.items()} | self._own_tensors()
        if self.average is not None:
            found |= {f"average/{n}": value for n, value in zip(self.named, self.average.averages, strict=True)}
        return found

    def counters(self) -> dict[str, Any]:
        """What is not a tensor."""
        return {"skipped_in_a_row": int(self.skipped_in_a_row)}

    @torch.no_grad()
    def restore(self, checkpoint: Checkpoint) -> None:
        """Go on from a checkpoint.

        Raises:
            CheckpointError: its parameters, moments or averages are not this run's.
        """
        values = checkpoint.part("parameter")
        _check("parameters", self.named, values)
        averages = checkpoint.part("average")
        _check("averages", {} if self.average is None else self.named, averages)
        self._restore_own(checkpoint)
        for index, (name, parameter) in enumerate(self.named.items()):
            parameter.copy_(values[name])
            if self.average is not None:
                self.average.averages[index].copy_(averages[name])
        self.step = checkpoint.step
        self.skipped_in_a_row.fill_(checkpoint.state["skipped_in_a_row"])


class Fit(AbstractRun):
    """By gradients. Most callers use `fit`.

    Args:
        loss, groups, config: see `AbstractRun`.
        in_backward: update each parameter as soon as its gradient is there, and give the gradient's memory away: the
            same numbers, without all gradients at once. Not finite ones are then skipped one by one. Needs Adam or
            AdamW, no clipping, no accumulation and no fp16.

    Raises:
        ConfigError: the groups or the precision cannot be trained.
    """

    def __init__(
        self, loss: Loss, groups: Sequence[ParameterGroup], config: FitConfig, *, in_backward: bool = False
    ) -> None:
        super().__init__(loss, groups, config)
        self.optimizer = build_optimizer(config.optimizer, groups, betas=config.betas, eps=config.eps)
        self.loss_scale = LossScale(self.device) if config.autocast == "fp16" else None
        self._in_backward = in_backward
        if in_backward and not self._may_update_in_backward:
            raise ConfigError("in_backward needs adam or adamw, no clipping, no accumulation and no fp16.")

    @property
    def _may_update_in_backward(self) -> bool:
        config = self.config
        plain = config.max_gradient_norm is None and config.gradient_accumulation == 1 and config.autocast != "fp16"
        return plain and config.optimizer != "sgd"

    def _measure(self, factor: float) -> tuple[dict[str, Tensor], Tensor]:
        for settings, group in zip(self.optimizer.param_groups, self.groups, strict=True):
            settings["lr"] = group.learning_rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        if not self._in_backward:
            return self._backward(), self._gradient_norm()
        self.whole = False
        with updates_in_backward(self.optimizer) as norms:
            losses = self._backward()
        self._check_any(norms)
        return losses, torch.linalg.vector_norm(torch.stack(list(norms)))

    def _backward(self) -> dict[str, Tensor]:
        """Gradients averaged over the micro-batches; the mean of every term and, last, of their total."""
        passes: list[LossTerms] = []
        count = self.config.gradient_accumulation
        for micro_step in range(count):
            generator = generator_for(self.config.seed, "fit", self.step, micro_step)
            # Dropout inside models draws from torch's global generators, not from ours.
            with global_randomness(self.device, self.config.seed, "fit-dropout", self.step, micro_step):
                # Without autocast's cache: casts of averages that lie in the parameters for a while would be taken for
                # the parameters afterwards, and in older versions of torch casts made under `no_grad`, too.
                half = self.config.autocast != "none"
                with torch.autocast(
                    self.device.type, AUTOCAST[self.config.autocast], enabled=half, cache_enabled=False
                ):
                    terms = self.loss(self.step, micro_step, generator)
                total = terms.total
                scaled = total if self.loss_scale is None else total * self.loss_scale.scale
                (scaled / count).backward()
            passes.append(LossTerms({name: term.detach() for name, term in terms.terms.items()}))
        return mean_terms(passes, self.device)

    def _check_any(self, gradients: Sequence[Tensor]) -> None:
        if not gradients:
            raise ConfigError(
                f"no parameter of the groups {[group.name for group in self.groups]} got a gradient; expected a loss "
                "that depends on them. Check requires_grad and which adapters the model holds."
            )

    def _gradient_norm(self) -> Tensor:
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        self._check_any(gradients)
        if self.loss_scale is not None:
            self.loss_scale.unscale(gradients)
        norm = torch.nn.utils.get_total_norm(gradients)
        if self.config.max_gradient_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.config.max_gradient_norm, norm)
        return norm

    def _apply(self, applied: Tensor) -> None:
        if self._in_backward:
            return
        # The fused kernels read this attribute; the host does not wait for the answer.
        self.optimizer.found_inf = 1 - applied  # type: ignore[attr-defined]
        self.optimizer.step()
        if self.loss_scale is not None:
            self.loss_scale.update(applied)

    def _own_tensors(self) -> dict[str, Tensor]:
        """Moments and loss scale."""
        found = {f"optimizer/{key}": value for key, value in optimizer_tensors(self.optimizer, self.named).items()}
        if self.loss_scale is not None:
            found |= {f"loss_scale/{key}": value for key, value in self.loss_scale.tensors().items()}
        return found

    def _restore_own(self, checkpoint: Checkpoint) -> None:
        restore_optimizer(self.optimizer, self.named, checkpoint.part("optimizer"))
        if self.loss_scale is not None:
            self.loss_scale.restore(checkpoint.part("loss_scale"))


def mean_terms(passes: Sequence[LossTerms], device: torch.device) -> dict[str, Tensor]:
    """The mean of every term over the micro-batches and, last, of their total; float32, 0-d, on `device`."""
    sums: dict[str, Tensor] = {}
    for terms in passes:
        for name, term in {**terms.terms, "total": terms.total}.items():
            share = term.detach().float().reshape(()).to(device) / len(passes)
            sums[name] = sums[name] + share if name in sums else share
    # Micro-batches may bring terms of other names, which would come behind the total.
    return {**{name: value for name, value in sums.items() if name != "total"}, "total": sums["total"]}


def _check(what: str, expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> None:
    ours = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    theirs = {name: tuple(tensor.shape) for name, tensor in found.items()}
    if ours != theirs:
        differing = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        shown = "; ".join(f"{n}: {theirs.get(n, 'nothing')}, expected {ours.get(n, 'nothing')}" for n in differing[:5])
        raise CheckpointError(
            f"the checkpoint's {what} are not this run's ({len(differing)} differ: {shown}). Run with the settings it "
            "was made with, or move the folder away to start over."
        )
