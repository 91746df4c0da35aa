"""Work killed by SIGKILL right after a chosen step, in processes of their own that start with everything imported."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from typing import Any

import torch

from pcs_ext.reporter import SilentReporter


class KillAt(SilentReporter):
    """Kills its own process when a task has done so many steps: nothing gets the chance to clean up or to save."""

    def __init__(self, task: str, step: int) -> None:
        self.task, self.step = task, step

    def progress(self, task: str, step: int, total: int, **fields: Any) -> None:
        """See `Reporter.progress`."""
        if (task, step) == (self.task, self.step):
            os.kill(os.getpid(), signal.SIGKILL)


def killed(run: Callable[..., Any], task: str, step: int, preload: str) -> None:
    """Run `run(reporter=...)` in a process of its own until it is killed there.

    Args:
        run: can be pickled.
        task, step: of the progress it reports.
        preload: module that imports all it needs.

    Raises:
        AssertionError: it ended otherwise, for instance without having come to that step.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([preload])
    process = context.Process(target=_run, args=(run, task, step))
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL, (
        f"ended with {process.exitcode} instead of being killed at {task} {step}"
    )


def _run(run: Callable[..., Any], task: str, step: int) -> None:
    torch.set_num_threads(1)
    run(reporter=KillAt(task, step))
