"""Checkpoints: whole or absent, newest valid one wins, nothing is lost on a full disk."""

import errno
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

from pcs_ext.errors import CheckpointError, ResourceError
from pcs_ext.image import checkpoint as checkpoint_module
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import FitConfig, fit
from tests.image.test_fit import Problem

TENSORS = {"w": torch.arange(6.0)}


def test_round_trip_and_rotation(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "c", keep=2)
    assert folder.latest() is None
    for step in (1, 2, 3):
        folder.save(step, {"w": TENSORS["w"] + step}, {"note": step})
    found = folder.latest()
    assert found is not None
    assert found.step == 3
    assert found.state == {"note": 3}
    assert torch.equal(found.tensors["w"], TENSORS["w"] + 3)
    assert sorted(path.name for path in (tmp_path / "c").iterdir()) == ["step-00000002", "step-00000003"]


@pytest.mark.parametrize("damage", ["truncate", "flip", "manifest", "remove"])
def test_a_damaged_newest_checkpoint_falls_back_to_the_one_before(tmp_path: Path, damage: str) -> None:
    folder = CheckpointFolder(tmp_path, keep=2)
    folder.save(1, TENSORS, {})
    path = folder.save(2, TENSORS, {})
    tensors = path / "tensors.safetensors"
    if damage == "truncate":
        tensors.write_bytes(tensors.read_bytes()[:-4])
    elif damage == "flip":
        data = bytearray(tensors.read_bytes())
        data[-1] ^= 1
        tensors.write_bytes(bytes(data))
    elif damage == "manifest":
        (path / "manifest.json").write_text("{")
    else:
        tensors.unlink()
    found = folder.latest()
    assert found is not None
    assert found.step == 1


def test_only_damaged_checkpoints_are_an_error_not_a_new_start(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    (folder.save(1, TENSORS, {}) / "state.json").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match="none can be used"):
        folder.latest()


def test_a_full_disk_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(1, TENSORS, {})

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint_module, "save_file", full)
    with pytest.raises(ResourceError, match="Earlier checkpoints are intact"):
        folder.save(2, TENSORS, {})
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000001"]


def test_leftovers_of_dead_writers_are_swept(tmp_path: Path) -> None:
    dead, alive = tmp_path / ".step-00000001.999999999.tmp", tmp_path / ".step-00000002.1.tmp"
    dead.mkdir()
    alive.mkdir()
    CheckpointFolder(tmp_path).sweep()
    assert not dead.exists()
    assert alive.exists()


def _train_until_killed(folder: Path, pipe: int) -> None:
    """Child process: train with a checkpoint after every step, telling the parent when a save begins."""
    problem = Problem()
    checkpoints = CheckpointFolder(folder, config_hash="k")
    real_fsync = os.fsync

    def slow_fsync(descriptor: int) -> None:
        os.write(pipe, b"s")
        time.sleep(0.01)
        real_fsync(descriptor)

    os.fsync = slow_fsync
    config = FitConfig(steps=STEPS, ema_decay=0.9, checkpoint_every_seconds=0.0)
    for _ in fit(problem, problem.groups, config, checkpoints=checkpoints):
        pass


STEPS = 60


def kill_once(folder: Path, index: int) -> bool:
    """Start a run, kill it in a save (every third time) or anywhere; True when it finished before."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            torch.set_num_threads(1)
            _train_until_killed(folder, writer)
            os._exit(0)
        except BaseException as error:
            sys.stderr.write(f"child failed: {error!r}\n")
            os._exit(1)
    os.close(writer)
    if index % 3 == 0:
        for _ in range(1 + index % 5):
            os.read(reader, 1)
    else:
        time.sleep(0.005 * (index * 7 % 40))
    os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    os.close(reader)
    assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0, "a resumed run failed"
    return not os.WIFSIGNALED(status)


@pytest.mark.parametrize("kills", [12, pytest.param(50, marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_killed_runs_end_like_runs_left_alone(tmp_path: Path, kills: int) -> None:
    config = FitConfig(steps=STEPS, ema_decay=0.9, checkpoint_every_seconds=0.0)
    straight = Problem()
    list(fit(straight, straight.groups, config))
    for index in range(kills):
        kill_once(tmp_path / "c", index)
        CheckpointFolder(tmp_path / "c", config_hash="k").latest()  # raises when nothing is usable
    resumed = Problem()
    list(fit(resumed, resumed.groups, config, checkpoints=CheckpointFolder(tmp_path / "c", config_hash="k")))
    assert torch.equal(straight.model.weight, resumed.model.weight)
    assert torch.equal(straight.model.bias, resumed.model.bias)
