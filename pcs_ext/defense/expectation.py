"""How long a job will take on this machine, and how much memory: measured on one photo before it begins."""

import dataclasses
import sys
import time
from collections.abc import Callable, Sequence

import torch

from pcs_ext.defense.canvas import Canvas
from pcs_ext.defense.engine import Protection
from pcs_ext.defense.method import Defense
from pcs_ext.defense.surrogate import Surrogate

_WORTH_IT = 20
"""Gradient steps below which a job is over before it is measured."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Expectation:
    """What to expect of a job."""

    minutes: float
    """For all photos, class pictures and attacks not counted. An estimate from one step of each kind."""
    peak_mb: float
    """Most memory of the process so far (of the accelerator, where there is one): the job will need about as much."""


def expect(method: Defense, surrogates: Sequence[Surrogate], photo: Canvas, count: int) -> Expectation | None:
    """Time one gradient step and one training step on one photo, after one of each to warm up; nothing of it is kept.

    Args:
        method: what will be done.
        surrogates: fresh ones, inactive; not to be used afterwards. SimAC's search of timesteps is not counted.
        photo: a typical one; its perturbation is left as it is.
        count: photos in all.

    Returns:
        None where the job is too short for that.
    """
    if method.gradient_steps < _WORTH_IT:
        return None
    groups = -(-count // method.group)
    seconds = 0.0
    for surrogate in surrogates:
        with surrogate.active():
            alone = dataclasses.replace(method, ensemble=False, rounds=1, steps=1)
            training = method.training
            if training is not None:
                views = photo.view(method.views.squares(*photo.photo.size)[0], surrogate.backbone.resolution, None)
                steps = training.first_steps + method.rounds * (training.clean_steps + training.protected_steps)
                seconds += groups * steps * _second_of_two(lambda s=surrogate, v=views: s.rehearse(v[None]))
            trial = Canvas(photo.photo, photo.budget)
            protection = Protection([trial], [surrogate], alone)
            gradient = protection.ascents[0].gradient
            seconds += count * method.gradient_steps * _second_of_two(lambda g=gradient, t=trial: g([t], 0))
    return Expectation(minutes=seconds / 60, peak_mb=_peak_mb(surrogates[0].backbone.device))


def _second_of_two(work: Callable[[], object]) -> float:
    """Wall time of the second run, in seconds: the first one allocates."""
    work()
    start = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _peak_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    import resource  # not everywhere

    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
