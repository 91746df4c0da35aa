"""How much to spend on learning a motion, and what that takes on the machine at hand."""

import dataclasses
import resource
import sys
import time
from collections import defaultdict
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch

from pcs_ext.reporter import SilentReporter
from pcs_ext.video.recipes import MotionRecipe

Effort = Literal["quick", "balanced", "best"]
"""quick: to see that it works; balanced: the recipe's own steps; best: where there is time."""
_SHARES: dict[Effort, float] = {"quick": 0.4, "balanced": 1.0, "best": 2.5}
"""Of the recipe's steps; ours."""
TRIAL_STEPS = 4
"""Steps per phase that are timed; the first of them is not counted."""


def with_effort(recipe: MotionRecipe, effort: Effort) -> MotionRecipe:
    """The recipe with more or fewer steps."""
    return recipe.with_steps(max(1, round(recipe.steps * _SHARES[effort])))


def trial(recipe: MotionRecipe) -> MotionRecipe:
    """The recipe with a few steps in each phase."""
    phases = tuple(
        dataclasses.replace(phase, fit=dataclasses.replace(phase.fit, steps=TRIAL_STEPS)) for phase in recipe.phases
    )
    return dataclasses.replace(recipe, phases=phases)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expected:
    """What learning with one effort takes here."""

    effort: Effort | None
    """None: as many steps as were asked for."""
    steps: int
    """In all phases."""
    minutes: float
    """Of optimising; loading comes on top."""
    memory_gb: float
    """Peak: of the device, or of the process where that is the CPU."""


class StepClock(SilentReporter):
    """Hears the progress of a trial and knows how long a step of each phase takes."""

    def __init__(self) -> None:
        self._times: dict[str, list[float]] = defaultdict(list)

    def progress(self, task: str, step: int, total: int, **fields: Any) -> None:
        """One step of a phase is done."""
        self._times[task].append(time.perf_counter())

    @property
    def seconds(self) -> Mapping[str, float]:
        """Per step, by task; of those after the first."""
        return {task: (times[-1] - times[0]) / (len(times) - 1) for task, times in self._times.items() if times[1:]}


def expected(recipe: MotionRecipe, clock: StepClock, device: torch.device, *, asked: bool = False) -> list[Expected]:
    """What every effort takes, after a trial.

    Args:
        recipe: with its own steps, or those that were asked for.
        clock: has heard the trial.
        device: it ran on.
        asked: the steps were asked for, and no effort changes them.
    """
    memory = round(_peak_bytes(device) / 2**30, 2)
    efforts: dict[Effort | None, MotionRecipe] = {effort: with_effort(recipe, effort) for effort in get_args(Effort)}
    found = []
    for effort, chosen in ({None: recipe} if asked else efforts).items():
        seconds = sum(phase.fit.steps * clock.seconds[f"motion {phase.name}"] for phase in chosen.phases)
        found.append(Expected(effort=effort, steps=chosen.steps, minutes=round(seconds / 60, 2), memory_gb=memory))
    return found


def _peak_bytes(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
