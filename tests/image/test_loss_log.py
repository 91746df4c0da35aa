"""Losses on disk and on the screen: every one of them, read from a device as seldom as told."""

from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_ext.image.loss_log import LossLog, LossReport
from pcs_ext.image.types import FitState
from pcs_ext.reporter import SilentReporter


class Told(SilentReporter):
    def __init__(self) -> None:
        self.steps: list[tuple[int, float]] = []

    def progress(self, task: str, step: int, total: int, **fields: Any) -> None:
        self.steps.append((step, fields["loss"]))


def states(count: int) -> list[FitState]:
    """Steps whose loss is their number."""
    return [
        FitState(
            step=step, total_steps=count, learning_rate=1.0, terms=("a",), numbers=torch.tensor([0.0, step, 1.0, 0.0])
        )
        for step in range(1, count + 1)
    ]


def was_read(state: FitState) -> bool:
    return "_values" in vars(state)


def test_losses_are_read_together_and_none_is_left_out(tmp_path: Path) -> None:
    log, told, done = LossLog(tmp_path / "losses.jsonl"), Told(), states(9)
    with LossReport(log, told, phase="p", task="learn p", device=torch.device("cpu"), every=3) as report:
        read = []
        for number, state in enumerate(done, 1):
            report.add(state)
            read.append(sum(map(was_read, done[:number])))
    # The first, then three by three, and what is left with the last.
    assert read == [1, 1, 1, 4, 4, 4, 7, 7, 9]
    assert told.steps == [(step, float(step)) for step in range(1, 10)]
    assert log.losses({"p": 9}) == [float(step) for step in range(1, 10)]
    log.close()


@pytest.mark.parametrize(("fault", "known"), [(KeyboardInterrupt, 3), (RuntimeError, 1)])
def test_an_interruption_leaves_nothing_unread_and_a_fault_is_not_hidden(
    fault: type[BaseException], known: int, tmp_path: Path
) -> None:
    log = LossLog(tmp_path / "losses.jsonl")
    report = LossReport(log, SilentReporter(), phase="p", task="t", device=torch.device("cuda"))

    def cut_off() -> None:
        with report:
            for state in states(9)[:3]:
                report.add(state)
            raise fault

    with pytest.raises(fault):
        cut_off()
    assert log.losses({"p": 9}) == [float(step) for step in range(1, known + 1)]
    log.close()


def test_without_a_log_losses_are_told_all_the_same() -> None:
    told = Told()
    with LossReport(None, told, task="t", device=torch.device("cuda")) as report:
        done = states(12)
        for state in done[:10]:
            report.add(state)
        assert [was_read(state) for state in done[:10]] == [True, *[False] * 9], "nothing waits for the device"
        for state in done[10:]:
            report.add(state)
    assert told.steps == [(step, float(step)) for step in range(1, 13)]


def test_on_the_cpu_every_step_is_read_at_once(tmp_path: Path) -> None:
    log, done = LossLog(tmp_path / "losses.jsonl"), states(3)
    with LossReport(log, SilentReporter(), phase="p", task="t", device=torch.device("cpu")) as report:
        for state in done:
            report.add(state)
            assert was_read(state)
    log.close()
