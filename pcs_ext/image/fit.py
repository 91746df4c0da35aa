"""The only optimisation loop: images, video, radiance fields and paths all train with it."""

import abc
import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pcs_ext.errors import CheckpointError, Interrupted, PcsError, ResourceError
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.evolution_run import EvolutionRun
from pcs_ext.image.fit_config import FitConfig, lr_factor
from pcs_ext.image.fit_run import AbstractRun, Fit, Loss, Stateful
from pcs_ext.image.interruption import deferred_signals
from pcs_ext.image.types import FitState, ParameterGroup
from pcs_ext.reporter import Reporter, SilentReporter

__all__ = ["AbstractCriterion", "AbstractRun", "Fit", "FitConfig", "Loss", "Stateful", "Stop", "fit", "lr_factor"]

Stop = Callable[[FitState], bool]


class AbstractCriterion(abc.ABC):
    """A `stop` that ends the run for good: its state and its verdict are stored in checkpoints.

    A plain function as `stop` only ends this call (a time budget, say); the next call goes on.
    """

    finished: bool = False
    """The verdict: a run resumed from a checkpoint with True has nothing left to do."""

    @abc.abstractmethod
    def __call__(self, state: FitState) -> bool:
        """Whether the run is over after this step; sets `finished`."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Tensors and JSON-able values by name."""

    @abc.abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""


def fit(
    loss: Loss,
    groups: Sequence[ParameterGroup],
    config: FitConfig,
    *,
    checkpoints: CheckpointFolder | None = None,
    resume: bool = True,
    extra_state: Mapping[str, Stateful] | None = None,
    after_step: Sequence[Callable[[int], None]] = (),
    stop: Stop | None = None,
    on_start: Callable[[AbstractRun], None] | None = None,
    reporter: Reporter | None = None,
) -> Iterator[FitState]:
    """Minimise a loss; yields after every step, so that the caller logs, previews and stops.

    A run that was killed goes on, in the next call, from the newest checkpoint; on the CPU the result is the same bit
    for bit as without the interruption, because step k draws everything from `generator_for(seed, "fit", k, micro)`
    and dropout from a seed of its own. Leaving the loop (`break`, an exception, the end) saves a last checkpoint.
    Ctrl-C or SIGTERM during a step lets the step finish, saves and raises `Interrupted`; a second one ends at once,
    with what was saved before. Ctrl-C in the caller's loop body saves too, but stays a KeyboardInterrupt there.

    Nothing is read from an accelerator unless the caller asks `FitState` for its numbers; a diverged run may
    therefore be noticed a few steps late there.

    Args:
        loss: `(step, micro_step, generator) -> LossTerms`, scalar terms connected to the parameters. With
            accumulation the step's gradient is the mean over micro-batches: of equal size, they equal one large batch.
        groups: what trains.
        config: how.
        checkpoints: where to save and resume; None keeps nothing.
        resume: False refuses a folder that holds checkpoints already.
        extra_state: what else must survive an interruption, by name (letters, digits, underscores).
        after_step: called in order with the number of steps done, without gradients: projections, norm limits.
        stop: asked after every step; True ends the run early. See `AbstractCriterion`.
        on_start: receives the run, for instance to sample with the averaged weights later.
        reporter: hears of a resume and of trouble.

    Raises:
        ConfigError: nothing to train, or precision that the device does not have.
        DivergedError: too many steps in a row were not finite.
        CheckpointError: no checkpoint can be used although some exist, or another run writes to the folder.
        Interrupted: Ctrl-C; what was done is saved.
        ResourceError: out of memory or disk.
    """
    run = (EvolutionRun if config.optimizer == "cma_es" else Fit)(loss, groups, config)
    extras = dict(extra_state or {})
    if isinstance(stop, AbstractCriterion):
        extras["stop"] = stop
    reporter = reporter or SilentReporter()
    with contextlib.nullcontext() if checkpoints is None else checkpoints.writing():
        if checkpoints is not None:
            _resume(run, checkpoints, extras, resume, reporter)
        if on_start is not None:
            on_start(run)
        yield from _loop(run, _Saver(run, checkpoints, extras, reporter), after_step, stop)


def _loop(
    run: AbstractRun, saver: "_Saver", after_step: Sequence[Callable[[int], None]], stop: Stop | None
) -> Iterator[FitState]:
    done = isinstance(stop, AbstractCriterion) and stop.finished
    try:
        while run.step < run.config.steps and not done:
            with deferred_signals() as interrupted:
                state = _advance(run, after_step)
                done = stop is not None and stop(state)
                if saver.is_due():
                    saver.save()
            if interrupted():
                raise KeyboardInterrupt
            yield state
        with deferred_signals() as interrupted:
            saver.save()
        if interrupted():
            raise KeyboardInterrupt
    except KeyboardInterrupt:
        raise Interrupted(saver.save_after_interruption()) from None
    except BaseException as error:
        with deferred_signals():
            saver.save_after(error)
        raise


def _advance(run: AbstractRun, after_step: Sequence[Callable[[int], None]]) -> FitState:
    try:
        return run.advance(after_step)
    except (MemoryError, RuntimeError) as error:
        # The CPU's allocator raises a plain RuntimeError.
        if not isinstance(error, (MemoryError, torch.OutOfMemoryError)) and "can't allocate memory" not in str(error):
            raise
        raise ResourceError(
            f"out of memory in step {run.step} ({str(error).splitlines()[0] if str(error) else 'no details'}). Lower "
            "batch_size and raise gradient_accumulation, or choose a smaller base."
        ) from None


class _Saver:
    """When and what to save."""

    def __init__(
        self, run: AbstractRun, checkpoints: CheckpointFolder | None, extras: Mapping[str, Stateful], reporter: Reporter
    ) -> None:
        self.run, self.checkpoints, self.extras, self.reporter = run, checkpoints, extras, reporter
        self.saved_step, self.saved_at, self.took = run.step, time.monotonic(), 0.0

    def is_due(self) -> bool:
        seconds, steps = self.run.config.checkpoint_every_seconds, self.run.config.checkpoint_every_steps
        # A large model's weights and moments take as long to write as many steps: a tenth of the time at most.
        by_time = seconds is not None and time.monotonic() - self.saved_at > max(seconds, 10 * self.took)
        return by_time or (steps is not None and self.run.step % steps == 0)

    def save(self) -> None:
        """Save the present step, unless it is saved already."""
        if self.checkpoints is None or self.run.step == self.saved_step:
            return
        started = time.monotonic()
        tensors, state = self.run.tensors(), self.run.counters()
        state["extra"] = {}
        for name, extra in self.extras.items():
            values = extra.state_dict()
            state["extra"][name] = {key: value for key, value in values.items() if not isinstance(value, Tensor)}
            tensors |= {f"extra/{name}/{key}": value for key, value in values.items() if isinstance(value, Tensor)}
        self.checkpoints.save(self.run.step, tensors, state)
        self.saved_step, self.saved_at = self.run.step, time.monotonic()
        self.took = self.saved_at - started

    def save_after_interruption(self) -> str:
        """Save if the step is whole; returns what to tell the user."""
        done = f"Interrupted after step {self.run.step} of {self.run.config.steps}"
        if self.checkpoints is None:
            return f"{done}; nothing is saved, because the run has no folder for checkpoints."
        if self.run.whole:
            self.save()
        return (
            f"{done}; step {self.saved_step} is saved in {self.checkpoints.folder}. The same command goes on from it."
        )

    def save_after(self, error: BaseException) -> None:
        """Save what an error or the caller's `break` leaves, and never hide the error."""
        if not self.run.whole:
            return
        try:
            self.save()
        except PcsError as fault:
            if isinstance(error, GeneratorExit):
                raise
            self.reporter.event("not-saved", str(fault))


def _resume(
    run: AbstractRun, checkpoints: CheckpointFolder, extras: Mapping[str, Stateful], resume: bool, reporter: Reporter
) -> None:
    if not resume and checkpoints.exists():
        raise CheckpointError(
            f"{checkpoints.folder} holds checkpoints already and the run was asked to start anew. Move the folder "
            "away, or resume."
        )
    found = checkpoints.latest()
    if found is None:
        return
    run.restore(found)
    stored = found.state.get("extra", {})
    if stored.keys() != extras.keys():
        raise CheckpointError(
            f"the newest checkpoint in {checkpoints.folder} holds extra state {sorted(stored)}; this run expects "
            f"{sorted(extras)}. Run with the settings it was made with, or move the folder away to start over."
        )
    for name, extra in extras.items():
        extra.load_state_dict({**stored[name], **found.part(f"extra/{name}")})
    reporter.event("resumed", f"Going on from step {found.step} of {run.config.steps}.", step=found.step)
