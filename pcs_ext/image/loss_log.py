"""The loss of every step on disk beside the checkpoints: a resumed run knows what came before it."""

import json
from pathlib import Path
from types import TracebackType

import torch

from pcs_ext.image.types import FitState
from pcs_ext.reporter import Reporter

_READ_EVERY = 10
"""Steps whose losses are read together from an accelerator."""


class LossLog:
    """Appends one JSON line per step.

    Args:
        path: of the file; its folder is made when needed.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Every line reaches the system as it is written: what a killed process leaves is whole lines but the last.
        self._file = path.open("a+", encoding="utf-8", buffering=1)
        if self._file.tell() and not path.read_bytes().endswith(b"\n"):
            self._file.write("\n")

    def add(self, phase: str, step: int, loss: float) -> None:
        """Note one step; a step that is done again after a rollback replaces its former entry."""
        self._file.write(json.dumps([phase, step, loss]) + "\n")

    def losses(self, phases: dict[str, int]) -> list[float]:
        """Losses in order of phases and steps.

        Args:
            phases: name -> steps that were done; later entries belong to an abandoned run and are left out.
        """
        self._file.seek(0)
        known: dict[tuple[str, int], float] = {}
        for line in self._file.read().splitlines():
            try:
                phase, step, loss = json.loads(line)
            except ValueError:
                continue  # cut off by a kill; the step was done again
            known[phase, step] = loss
        return [known[name, s] for name, steps in phases.items() for s in range(1, steps + 1) if (name, s) in known]

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class LossReport:
    """Logs and reports the steps of one phase; a context, at whose end nothing is left unread.

    Reading a loss from an accelerator waits for all that is queued there. So it is done after the first step, then for
    ten at once, and after the last: every step is logged and reported with its own loss, some a little late. A killed
    process loses what it had not read from the log, never from the training. On the CPU every step is read at once.

    Args:
        log: of the run; None keeps nothing.
        reporter: hears of every step.
        task: the phase's name for people.
        device: where the losses are.
        phase: its name in the log.
        every: steps that are read together; None: as the device asks for.
    """

    def __init__(
        self, log: LossLog | None, reporter: Reporter, *, task: str, device: torch.device, phase: str = "",
        every: int | None = None,
    ) -> None:  # fmt: skip
        self._log, self._reporter, self._phase, self._task = log, reporter, phase, task
        self._every = every or (1 if device.type == "cpu" else _READ_EVERY)
        self._unread: list[FitState] = []
        self._seen = 0

    def add(self, state: FitState) -> None:
        """One step is done."""
        self._unread.append(state)
        self._seen += 1
        first, last = self._seen == 1, state.step == state.total_steps
        if first or last or len(self._unread) >= self._every:
            self._read()

    def _read(self) -> None:
        while self._unread:
            state = self._unread.pop(0)
            total = state.losses["total"]
            if self._log is not None:
                self._log.add(self._phase, state.step, total)
            self._reporter.progress(self._task, state.step, state.total_steps, loss=total)

    def __enter__(self) -> "LossReport":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # After a fault of the device there is nothing to be read, and the fault is what has to be seen.
        if kind is None or not issubclass(kind, RuntimeError):
            self._read()
