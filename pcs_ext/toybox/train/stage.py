"""One training stage: `fit` with a time budget, resumed from its own checkpoints."""

import shutil
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config_hash, to_jsonable
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import AbstractRun, FitConfig, Loss, Stateful, fit
from pcs_ext.image.types import FitState, ParameterGroup
from pcs_ext.reporter import Reporter
from pcs_ext.toybox.train.settings import Settings

_WORTH_COMPILING = 5000
"""Steps from which on compiling, some minutes on a CPU, pays: a step takes a third less time afterwards."""


_TOLD = 50
"""Steps between two reports of a training that is not on the CPU."""


def run_stage(
    name: str,
    modules: Mapping[str, nn.Module],
    loss: Loss,
    settings: Settings,
    config: FitConfig,
    reporter: Reporter,
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    minutes: float | None = None,
    extra_state: Mapping[str, Stateful] | None = None,
    finish: Callable[[], None],
) -> None:
    """Train `modules` for `config.steps` steps in all, or until the minutes of this call are over.

    Args:
        name: of the stage: its checkpoints live in a folder of that name.
        modules: what trains, in train mode afterwards.
        loss: as in `fit`.
        settings: of this generation of toybox.
        config: as in `fit`; its steps may grow from call to call.
        reporter: hears the progress.
        learning_rate: peak.
        weight_decay: AdamW's, on matrices and kernels only.
        minutes: budget of this call; None: until the steps are done.
        extra_state: as in `fit`.
        finish: called once at the end, with the averaged weights in the modules: saves the stage's models.
    """
    groups = parameter_groups(modules, learning_rate, weight_decay)
    for module in modules.values():
        module.train().requires_grad_(True)
    deadline = None if minutes is None else time.monotonic() + 60 * minutes
    folder = CheckpointFolder(settings.folder / name, config_hash=config_hash([to_jsonable(settings), name]), keep=1)
    running: list[AbstractRun] = []

    def out_of_time(state: FitState) -> bool:
        return deadline is not None and time.monotonic() > deadline

    run = fit(
        loss,
        groups,
        config,
        checkpoints=folder,
        extra_state=extra_state,
        stop=out_of_time,
        on_start=running.append,
    )
    for state in run:
        # Reading losses waits for the device.
        if settings.device != "cpu" and state.step % _TOLD and state.step < state.total_steps:
            continue
        terms = {key: value for key, value in state.losses.items() if key != "total"}
        reporter.progress(name, state.step, state.total_steps, **terms)
    with running[0].averaged():
        for module in modules.values():
            module.eval()
        finish()


def parameter_groups(
    modules: Mapping[str, nn.Module], learning_rate: float, weight_decay: float
) -> list[ParameterGroup]:
    """Matrices with decay, vectors and scalars without."""
    parameters = [p for module in modules.values() for p in module.parameters()]
    matrices, vectors = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() <= 1]
    return [
        ParameterGroup(
            name="matrices",
            parameters=tuple(matrices),
            learning_rate=learning_rate,
            weight_decay=weight_decay,
        ),
        ParameterGroup(name="vectors", parameters=tuple(vectors), learning_rate=learning_rate),
    ]


def rows(count: int, batch: int, generator: torch.Generator) -> Tensor:
    """Random rows of a data set, with replacement."""
    return torch.randint(count, (batch,), generator=generator)


def generator_on(device: torch.device, generator: torch.Generator) -> torch.Generator:
    """For noise: on the CPU the generator itself, elsewhere one of the device that it seeds, since hundreds of
    pictures' noise takes a CPU longer than a GPU's whole step."""
    if device.type == "cpu":
        return generator
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=generator)))


def compile_for(module: nn.Module, steps: int) -> None:
    """Compile the module in place where so many steps repay it and there is a compiler."""
    if steps >= _WORTH_COMPILING and shutil.which("c++"):
        module.compile()
