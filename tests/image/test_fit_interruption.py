"""The optimisation loop when it is interrupted, killed or out of memory."""

import dataclasses
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pcs_ext.errors import Interrupted, ResourceError
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import fit
from pcs_ext.image.types import LossTerms
from tests.support.problems import CONFIG, Problem, run


@pytest.mark.usefixtures("terminal")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_finish_and_is_saved(tmp_path: Path, number: int) -> None:
    class Stopped(Problem):
        def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
            if step == 5 and micro_step == 0 and first:
                os.kill(os.getpid(), number)
            return super().__call__(step, micro_step, generator)

    straight, first = Problem(), True
    run(straight)
    folder = CheckpointFolder(tmp_path / "c")
    with pytest.raises(Interrupted, match=r"after step 6 of 12; step 6 is saved in .*/c\. The same command goes on"):
        run(Stopped(), checkpoints=folder)
    with pytest.raises(Interrupted, match="nothing is saved"):
        run(Stopped())
    first, resumed = False, Stopped()
    assert run(resumed, checkpoints=folder)[0].step == 7
    assert torch.equal(straight.model.weight, resumed.model.weight)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("terminal")
def test_an_ignored_signal_stays_ignored() -> None:
    class Signalled(Problem):
        def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
            os.kill(os.getpid(), signal.SIGINT)
            return super().__call__(step, micro_step, generator)

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    assert run(Signalled())[-1].step == CONFIG.steps


@pytest.mark.usefixtures("terminal")
def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    class Stopped(Problem):
        def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
            if step == 5:
                os.kill(os.getpid(), signal.SIGINT)
                os.kill(os.getpid(), signal.SIGINT)
                raise AssertionError("the second signal did not end the step")
            return super().__call__(step, micro_step, generator)

    with pytest.raises(Interrupted, match="after step 5 of 12; step 5 is saved"):
        run(Stopped(), checkpoints=CheckpointFolder(tmp_path))


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_errors_in_the_callers_loop_save_and_pass_through(tmp_path: Path, error: type[BaseException]) -> None:
    def body(problem: Problem) -> None:
        for state in fit(problem, problem.groups, CONFIG, checkpoints=folder):
            if state.step == 5:
                raise error

    folder = CheckpointFolder(tmp_path)
    with pytest.raises(error):
        body(Problem())
    found = folder.latest()
    assert found is not None
    assert found.step == 5


def test_a_step_cut_in_half_is_never_saved(tmp_path: Path) -> None:
    def fail(step: int) -> None:
        if step == 4:
            raise KeyboardInterrupt

    folder = CheckpointFolder(tmp_path)
    config = dataclasses.replace(CONFIG, checkpoint_every_steps=2)
    with pytest.raises(Interrupted, match="step 2 is saved"):
        run(Problem(), config, checkpoints=folder, after_step=[fail])
    found = folder.latest()
    assert found is not None
    assert found.step == 2


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(),
                                   RuntimeError("DefaultCPUAllocator: can't allocate memory: 8 bytes")])  # fmt: skip
def test_out_of_memory(tmp_path: Path, error: Exception) -> None:
    class Huge(Problem):
        def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
            if step == 3:
                raise error
            return super().__call__(step, micro_step, generator)

    folder = CheckpointFolder(tmp_path)
    with pytest.raises(ResourceError, match="out of memory in step 3 .*raise gradient_accumulation"):
        run(Huge(), checkpoints=folder)
    found = folder.latest()
    assert found is not None
    assert found.step == 3


def test_saves_by_steps_and_at_the_end(tmp_path: Path) -> None:
    class Recording(CheckpointFolder):
        def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
            saved.append(step)
            return super().save(step, tensors, state)

    saved: list[int] = []
    config = dataclasses.replace(CONFIG, checkpoint_every_seconds=None, checkpoint_every_steps=5)
    run(Problem(), config, checkpoints=Recording(tmp_path))
    assert saved == [5, 10, 12]
    assert run(Problem(), config, checkpoints=Recording(tmp_path)) == []
    assert saved == [5, 10, 12]
