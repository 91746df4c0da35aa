"""Checkpoints: whole or absent, newest valid one wins, nothing is lost on a full disk."""

import errno
import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_ext.errors import CheckpointError, ResourceError
from pcs_ext.image import checkpoint as checkpoint_module
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import FitConfig, fit
from tests.support.problems import Problem

TENSORS = {"w": torch.arange(6.0)}


class Heard:
    """A reporter that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str]] = []

    def event(self, name: str, message: str = "", **fields: Any) -> None:
        """Remember."""
        self.events.append((name, message))

    def progress(self, task: str, step: int, total: int, **fields: Any) -> None:
        """Ignore."""


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


def rewrite_json(path: Path, change: Callable[[Any], Any]) -> None:
    """Replace a JSON file by a changed version."""
    path.write_text(json.dumps(change(json.loads(path.read_text()))))


def flip(path: Path, position: int) -> None:
    """Change one bit."""
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(bytes(data))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "truncated tensors": lambda p: os.truncate(p / "tensors.safetensors", 20),
    "empty tensors": lambda p: os.truncate(p / "tensors.safetensors", 0),
    "flipped number": lambda p: flip(p / "tensors.safetensors", -1),
    "flipped header": lambda p: flip(p / "tensors.safetensors", 3),
    "tensors gone": lambda p: (p / "tensors.safetensors").unlink(),
    "tensors are a folder": lambda p: [(p / "tensors.safetensors").unlink(), (p / "tensors.safetensors").mkdir()],
    "state changed": lambda p: rewrite_json(p / "state.json", lambda s: {**s, "step": 7}),
    "state gone": lambda p: (p / "state.json").unlink(),
    "manifest is half": lambda p: os.truncate(p / "manifest.json", 30),
    "manifest gone": lambda p: (p / "manifest.json").unlink(),
    "manifest is a list": lambda p: (p / "manifest.json").write_text("[1]"),
    "manifest without files": lambda p: rewrite_json(p / "manifest.json", lambda m: {**m, "files": {}}),
    "manifest of numbers": lambda p: rewrite_json(p / "manifest.json", lambda m: {"files": dict.fromkeys(m["files"])}),
    "manifest is not text": lambda p: (p / "manifest.json").write_bytes(b"\xff\xfe\x00"),
    "nothing in it": lambda p: [shutil.rmtree(p), p.mkdir()],
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_newest_checkpoint_falls_back_and_is_kept_aside(tmp_path: Path, damage: Callable) -> None:
    heard = Heard()
    folder = CheckpointFolder(tmp_path, keep=2, reporter=heard)
    folder.save(1, TENSORS, {})
    damage(folder.save(2, TENSORS, {}))
    found = folder.latest()
    assert found is not None
    assert found.step == 1
    assert [name for name, _ in heard.events] == ["checkpoint-damaged"]
    assert "step-00000002" in heard.events[0][1]
    assert (tmp_path / "damaged-step-00000002").is_dir()
    # The same step is written anew, is damaged again, and neither of the two damaged ones goes away.
    damage(folder.save(2, TENSORS, {}))
    assert folder.latest() is not None
    for step in (3, 4, 5):
        folder.save(step, TENSORS, {})
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["damaged-step-00000002", "damaged-step-00000002-2", "step-00000004", "step-00000005"]


def test_only_damaged_checkpoints_are_an_error_not_a_new_start(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    (folder.save(1, TENSORS, {}) / "state.json").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match="none can be used"):
        folder.latest()


@pytest.mark.parametrize("where", ["save_file", "write_json", "os.fsync", "os.replace", "fsync_folder"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_a_failed_write_keeps_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, code: int
) -> None:
    folder = CheckpointFolder(tmp_path, keep=1)
    folder.save(1, TENSORS, {})

    def fail(*arguments: object, **options: object) -> None:
        raise OSError(code, os.strerror(code))

    owner, _, name = where.rpartition(".")
    monkeypatch.setattr(checkpoint_module.os if owner else checkpoint_module, name, fail)
    with pytest.raises(ResourceError, match="could not write .*step-00000002.*Earlier checkpoints are intact"):
        folder.save(2, TENSORS, {})
    monkeypatch.undo()
    found = folder.latest()
    assert found is not None
    # When only the last fsync fails, the new one is there already.
    assert found.step == (2 if where == "fsync_folder" else 1)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_really_full_disk(tmp_path: Path) -> None:
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(mount)]
    if os.geteuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("cannot mount a small file system here")
    try:
        folder = CheckpointFolder(mount / "run", keep=1)
        folder.save(1, {"w": torch.ones(10_000)}, {})
        with pytest.raises(ResourceError, match="could not write"):
            folder.save(2, {"w": torch.ones(100_000)}, {})
        found = folder.latest()
        assert found is not None
        assert found.step == 1
        folder.save(3, {"w": torch.ones(10_000)}, {})
        assert [path.name for path in (mount / "run").iterdir()] == ["step-00000003"]
    finally:
        # Lazily: a tensor read from a file may still be mapped.
        subprocess.run(["umount", "--lazy", str(mount)], check=True)


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    folder = CheckpointFolder(tmp_path / "file")
    with pytest.raises(ResourceError, match="could not write .*/file"):
        folder.save(1, TENSORS, {})
    with pytest.raises(ResourceError, match="could not write .*/file"), folder.writing():
        pass


def test_leftovers_of_dead_writers_are_swept(tmp_path: Path) -> None:
    dead = [tmp_path / ".step-00000001.999999999.tmp", tmp_path / ".step-00000001.999999999.old"]
    kept = [tmp_path / ".step-00000002.1.tmp", tmp_path / ".step-notes", tmp_path / "step-00000003.txt"]
    for path in dead + kept:
        path.mkdir()
    with CheckpointFolder(tmp_path).writing():
        assert not any(path.exists() for path in dead)
        assert all(path.exists() for path in kept)
    assert CheckpointFolder(tmp_path).latest() is None


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    first, second = CheckpointFolder(tmp_path), CheckpointFolder(tmp_path)
    message = f"in use by another run .process {os.getpid()}"
    with first.writing(), pytest.raises(CheckpointError, match=message), second.writing():
        pass
    with second.writing():
        pass


def test_tensors_that_share_memory(tmp_path: Path) -> None:
    table = torch.arange(12.0).reshape(4, 3)
    folder = CheckpointFolder(tmp_path)
    folder.save(1, {"all": table, "rows": table[1:3], "turned": table.T, "none": torch.zeros(0)}, {})
    found = folder.latest()
    assert found is not None
    assert torch.equal(found.tensors["rows"], table[1:3])
    assert torch.equal(found.tensors["turned"], table.T)
    assert found.tensors["none"].shape == (0,)


def test_saving_a_step_again_replaces_it(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save(1, TENSORS, {"version": 1})
    folder.save(1, TENSORS, {"version": 2})
    found = folder.latest()
    assert found is not None
    assert found.state == {"version": 2}


def test_saving_takes_a_tenth_of_the_time_at_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a step that takes a second, with saves that take three and are asked for every second."""
    now, saved = [0.0], list[int]()

    class Slow(CheckpointFolder):
        def save(self, step: int, *args: Any) -> Path:
            now[0] += 3
            saved.append(step)
            return super().save(step, *args)

    monkeypatch.setattr("pcs_ext.image.fit.time.monotonic", lambda: now[0])
    problem = Problem()

    def loss(*asked: Any) -> Any:
        now[0] += 1
        return problem(*asked)

    for _ in fit(loss, problem.groups, FitConfig(steps=70, checkpoint_every_seconds=1.0), checkpoints=Slow(tmp_path)):
        pass
    assert saved == [2, 33, 64, 70]
