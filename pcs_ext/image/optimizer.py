"""Optimisers that skip a bad step without asking the device, and their state as plain tensors."""

import contextlib
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pcs_ext.errors import CheckpointError, ConfigError
from pcs_ext.image.types import ParameterGroup

OptimizerName = Literal["adamw", "adam", "sgd", "cma_es"]


def named_parameters(groups: Sequence[ParameterGroup]) -> dict[str, torch.nn.Parameter]:
    """Parameters as checkpoints name them: `group/index`.

    Raises:
        ConfigError: no parameter at all, two groups of one name, a parameter in two groups, or one below float32.
    """
    names = [group.name for group in groups]
    if len(set(names)) != len(names):
        raise ConfigError(f"parameter groups must have distinct names, got {names}.")
    found = {f"{group.name}/{index}": p for group in groups for index, p in enumerate(group.parameters)}
    if not found:
        raise ConfigError(f"there is nothing to train: the groups {names} hold no parameters; expected at least one.")
    if len({id(parameter) for parameter in found.values()}) != len(found):
        raise ConfigError(f"a parameter stands in two of the groups {names} (or twice in one); expected each once.")
    low = [name for name, parameter in found.items() if parameter.dtype not in (torch.float32, torch.float64)]
    if low:
        raise ConfigError(
            f"parameter {low[0]} is {found[low[0]].dtype}; expected float32, because updates below its resolution "
            "would be lost. Keep the trained weights in float32 and set autocast."
        )
    return found


def build_optimizer(
    name: OptimizerName, groups: Sequence[ParameterGroup], *, betas: tuple[float, float], eps: float
) -> torch.optim.Optimizer:
    """AdamW (decoupled decay), Adam (decay added to the gradient) or SGD with momentum `betas[0]`.

    All run as one fused kernel per group, which honours `optimizer.found_inf`: with that tensor at 1 a step changes
    nothing, and the host need not know.

    Raises:
        ConfigError: cma_es, which `fit` runs without gradients.
    """
    if name == "cma_es":
        raise ConfigError("cma_es takes no gradients and goes through `fit`; expected adamw, adam or sgd here.")
    settings = [
        {"params": list(group.parameters), "lr": group.learning_rate, "weight_decay": group.weight_decay}
        for group in groups
    ]
    if name == "sgd":
        optimizer = torch.optim.SGD(settings, momentum=betas[0], fused=True)
        for parameter in (p for group in groups for p in group.parameters):
            # torch leaves the buffer uninitialised when the very first step is skipped through `found_inf`.
            optimizer.state[parameter] = {"momentum_buffer": torch.zeros_like(parameter)}
        return optimizer
    kind = torch.optim.AdamW if name == "adamw" else torch.optim.Adam
    return kind(settings, betas=betas, eps=eps, fused=True)


@contextlib.contextmanager
def updates_in_backward(optimizer: torch.optim.Optimizer) -> Iterator[list[Tensor]]:
    """Inside, a backward pass moves each parameter of an Adam of `build_optimizer` when its gradient is whole, and
    drops the gradient: what `optimizer.step` would do afterwards, number for number. A gradient that is not finite
    moves nothing. Yields the list that the gradients' norms are appended to.
    """
    norms: list[Tensor] = []
    handles = []
    try:
        for settings in optimizer.param_groups:
            for parameter in settings["params"]:
                hook = functools.partial(_update, optimizer, settings, norms)
                handles.append(parameter.register_post_accumulate_grad_hook(hook))
        yield norms
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _update(
    optimizer: torch.optim.Optimizer, settings: Mapping[str, Any], norms: list[Tensor], parameter: Tensor
) -> None:
    assert parameter.grad is not None
    gradient, state = parameter.grad, optimizer.state[parameter]
    if not state:
        # As torch.optim does it in the first step.
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
    norm = torch.linalg.vector_norm(gradient)
    norms.append(norm.float())
    skipped = (~torch.isfinite(norm)).float()
    state["step"] += 1
    fused = torch._fused_adamw_ if isinstance(optimizer, torch.optim.AdamW) else torch._fused_adam_
    beta1, beta2 = settings["betas"]
    fused(
        [parameter], [gradient], [state["exp_avg"]], [state["exp_avg_sq"]], [], [state["step"]], lr=settings["lr"],
        beta1=beta1, beta2=beta2, weight_decay=settings["weight_decay"], eps=settings["eps"], amsgrad=False,
        maximize=False, grad_scale=None, found_inf=skipped,
    )  # fmt: skip
    state["step"] -= skipped
    parameter.grad = None


def optimizer_tensors(optimizer: torch.optim.Optimizer, named: Mapping[str, torch.nn.Parameter]) -> dict[str, Tensor]:
    """All state by `group/index/key`; parameters that never had a gradient have none."""
    return {
        f"{name}/{key}": value
        for name, parameter in named.items()
        for key, value in optimizer.state.get(parameter, {}).items()
        if value is not None
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, named: Mapping[str, torch.nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Inverse of `optimizer_tensors`.

    Raises:
        CheckpointError: state of a parameter that is not trained here, or of another shape or optimiser.
    """
    by_parameter: dict[str, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        name, _, part = key.rpartition("/")
        by_parameter.setdefault(name, {})[part] = value
    expected = {"momentum_buffer"} if isinstance(optimizer, torch.optim.SGD) else {"step", "exp_avg", "exp_avg_sq"}
    optimizer.state.clear()
    for name, state in by_parameter.items():
        parameter = named.get(name)
        if parameter is None:
            raise CheckpointError(f"the checkpoint has optimiser state of {name}; this run trains {sorted(named)}.")
        wrong = [key for key, value in state.items() if key != "step" and value.shape != parameter.shape]
        if state.keys() != expected or wrong:
            raise CheckpointError(
                f"optimiser state of {name} in the checkpoint is "
                f"{ {key: tuple(value.shape) for key, value in state.items()} }; expected {sorted(expected)} of shape "
                f"{tuple(parameter.shape)}. Go on with the optimiser that the checkpoint was made with."
            )
        optimizer.state[parameter] = {
            # The fused kernels walk through memory: moments must lie as the parameter does (channels_last).
            key: value.to(parameter.device) if key == "step" else torch.empty_like(parameter.data).copy_(value)
            for key, value in state.items()
        }


class LossScale:
    """The factor that keeps float16 gradients above zero: halved after a bad step, doubled after `interval` good ones.

    It lives on the device; nothing of it is read by the host. (Micikevicius et al. 2018, arXiv 1710.03740, section
    3.2, with the growth and backoff that torch uses.)
    """

    def __init__(self, device: torch.device, *, initial: float = 65536.0, interval: int = 2000) -> None:
        self.scale = torch.full((), initial, device=device)
        self.good_steps = torch.zeros((), device=device)
        self.interval = interval

    def unscale(self, gradients: Sequence[Tensor]) -> None:
        """Divide gradients in place."""
        torch._foreach_mul_(list(gradients), 1 / self.scale)

    def update(self, applied: Tensor) -> None:
        """Take in whether a step was done (1) or skipped (0)."""
        self.good_steps = (self.good_steps + 1) * applied
        grow = self.good_steps >= self.interval
        self.good_steps = torch.where(grow, 0.0, self.good_steps)
        self.scale = self.scale * torch.where(grow, 2.0, 1.0) * torch.where(applied > 0, 1.0, 0.5)

    def tensors(self) -> dict[str, Tensor]:
        """State for checkpoints."""
        return {"scale": self.scale, "good_steps": self.good_steps}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `tensors`."""
        self.scale.copy_(tensors["scale"])
        self.good_steps.copy_(tensors["good_steps"])
