"""kill -9 at any moment: no unusable checkpoint, nothing lost that was saved, the same weights bit for bit."""

import dataclasses
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pcs_ext.image.checkpoint import CheckpointFolder
from tests.image.crash_worker import STEPS

ROOT = Path(__file__).parents[2]


@dataclasses.dataclass
class Life:
    """What one process did before it was killed."""

    resumed: int = 0
    saved: int = 0
    """Step of the last save whose end was announced; 0 for none."""
    inside_save: bool = False
    finished: bool = False
    status: int = 0


class Worker:
    """The zygote that `crash_worker` describes."""

    def __init__(self, folder: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "tests.image.crash_worker", str(folder)]
        with open(folder.with_suffix(".err"), "w") as errors:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env=environment,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        assert self._line() == ["ready"]

    def _line(self) -> list[str]:
        line = self.stdout.readline()
        assert line, "the worker ended"
        return line.split()

    def live(self, *, every: int = STEPS, seconds: float | None = None, touches: int | None = None) -> Life:
        """One life that saves every few steps, ended after some seconds or at the n-th fsync or rename; or never."""
        slow = 0 if seconds is None and touches is None else 2
        self.stdin.write(f"live {slow} {every}\n")
        self.stdin.flush()
        pid, life, timer = 0, Life(), None
        while True:
            word, *rest = self._line()
            if word == "born":
                pid = int(rest[0])
            elif word == "resumed":
                life.resumed = life.saved = int(rest[0])
                if seconds is not None:
                    timer = threading.Timer(seconds, _kill, [pid])
                    timer.start()
            elif word == "touch" and touches is not None:
                touches -= 1
                if touches == 0:
                    _kill(pid)
            elif word in ("begin", "end"):
                life.inside_save = word == "begin"
                life.saved = int(rest[0]) if word == "end" else life.saved
            elif word == "finished":
                life.finished = True
            elif word == "dead":
                life.status = int(rest[0])
                break
        if timer is not None:
            timer.cancel()
            timer.join()
        return life

    def close(self) -> None:
        """End the zygote."""
        self.stdin.close()
        self.process.wait(timeout=30)
        self.stdout.close()


def _kill(pid: int) -> None:
    # The zygote reaps its child at once, but nothing else is born before the next command: the id is still ours.
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        time.sleep(0)


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    made = Worker(tmp_path / "killed")
    yield made
    made.close()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """Everything stored at the end of a run that was left alone."""
    folder = tmp_path_factory.mktemp("left-alone") / "run"
    worker = Worker(folder)
    assert worker.live().finished
    worker.close()
    return load_file(folder / f"step-{STEPS:08d}" / "tensors.safetensors")


@pytest.mark.parametrize(("kills", "inside"), [(10, 4), pytest.param(50, 20, marks=pytest.mark.slow)])
def test_killed_runs_end_like_one_left_alone(
    tmp_path: Path, worker: Worker, undisturbed: dict[str, torch.Tensor], kills: int, inside: int
) -> None:
    folder = tmp_path / "killed"
    rng = random.Random(kills)
    # Half of the kills at random moments of a life, half at a random fsync or rename of a save.
    plans: list[dict[str, Any]] = [{"touches": rng.randint(1, 24)} for _ in range(kills // 2)]
    plans += [{"seconds": rng.uniform(0.0, 0.15)} for _ in range(kills - len(plans))]
    rng.shuffle(plans)
    durable, killed_inside, progress = 0, 0, 0
    for when in plans:
        life = worker.live(every=2, **when)
        assert os.WIFSIGNALED(life.status), f"the worker was not killed: status {life.status}, {life}"
        assert life.resumed >= durable, f"step {durable} was saved, the next life went on from {life.resumed}"
        progress += life.saved > durable
        durable = life.saved
        killed_inside += life.inside_save
        if durable:
            # Raises when nothing is usable. What the rename made visible may be newer than what was announced.
            found = CheckpointFolder(folder, config_hash="crash").latest()
            assert found is not None
            assert found.step >= durable
    last = worker.live()
    assert last.finished
    assert last.status == 0
    assert killed_inside >= inside
    assert progress >= kills // 4
    tensors = load_file(folder / f"step-{STEPS:08d}" / "tensors.safetensors")
    assert tensors.keys() == undisturbed.keys()
    assert all(torch.equal(tensors[name], undisturbed[name]) for name in tensors)
    names = sorted(path.name for path in folder.iterdir())
    assert names == [".lock", f"step-{last.resumed:08d}", f"step-{STEPS:08d}"], "leftovers or damaged checkpoints"
    print(f"{kills} kills, {killed_inside} of them inside a save, {progress} lives made progress")


def test_two_runs_do_not_write_to_one_folder(tmp_path: Path, worker: Worker) -> None:
    with CheckpointFolder(tmp_path / "killed").writing():
        life = worker.live()
    assert os.WEXITSTATUS(life.status) == 1
    assert f"in use by another run (process {os.getpid()})" in (tmp_path / "killed.err").read_text()
    assert worker.live(touches=1).resumed == 0  # and now it may
