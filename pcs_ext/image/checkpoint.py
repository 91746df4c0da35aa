"""Checkpoints that a kill at any moment cannot spoil.

A checkpoint is a folder `step-00000100` with `tensors.safetensors`, `state.json` and `manifest.json` (size and sha256
of the other two). It is written under a hidden name and appears by one rename.
"""

import dataclasses
import errno
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pcs_ext.config_io import file_sha256, fsync_folder, read_json, write_json
from pcs_ext.errors import CheckpointError, ConfigError, ResourceError

_NAME = re.compile(r"step-(\d{8})")
_TEMPORARY = re.compile(r"\.step-\d{8}\.(\d+)\.tmp")
_FILES = ("tensors.safetensors", "state.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One valid checkpoint, read into memory."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        folder: where they live; made on the first save.
        config_hash: of everything that must not change between start and resume.
        keep: how many to keep; older ones go only after a newer one is in place.
    """

    def __init__(self, folder: Path, *, config_hash: str = "", keep: int = 2) -> None:
        self.folder = folder
        self.config_hash = config_hash
        self.keep = max(1, keep)

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Write a checkpoint; it is complete and durable when this returns.

        Raises:
            ResourceError: the disk is full; earlier checkpoints are intact.
        """
        final = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".{final.name}.{os.getpid()}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            self._write(temporary, step, tensors, state)
            if final.exists():  # left over from before a resume at an earlier step
                shutil.rmtree(final)
            os.replace(temporary, final)
            fsync_folder(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            if isinstance(error, OSError) and error.errno != errno.ENOSPC:
                raise
            raise ResourceError(
                f"could not write checkpoint {final}: {error}. Earlier checkpoints are intact; free some disk space "
                "and run the same command again."
            ) from None
        self._rotate(step)
        return final

    def _write(self, folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        copies = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        save_file(copies, folder / _FILES[0])
        write_json(folder / _FILES[1], {"step": step, "config_hash": self.config_hash, "state": dict(state)})
        sizes = {name: (folder / name).stat().st_size for name in _FILES}
        files = {name: {"size": size, "sha256": file_sha256(folder / name)} for name, size in sizes.items()}
        write_json(folder / "manifest.json", {"schema_version": 1, "files": files})
        with open(folder / _FILES[0], "rb") as handle:
            os.fsync(handle.fileno())

    def _rotate(self, newest: int) -> None:
        for step, path in self._listed():
            if step > newest or step in [s for s, _ in self._listed() if s <= newest][-self.keep :]:
                continue
            shutil.rmtree(path, ignore_errors=True)

    def _listed(self) -> list[tuple[int, Path]]:
        found = [(int(m[1]), path) for path in self.folder.glob("step-*") if (m := _NAME.fullmatch(path.name))]
        return sorted(found)

    def sweep(self) -> None:
        """Remove half-written checkpoints whose writer is dead."""
        for path in self.folder.glob(".step-*.tmp"):
            match = _TEMPORARY.fullmatch(path.name)
            if match and (int(match[1]) == os.getpid() or not psutil.pid_exists(int(match[1]))):
                shutil.rmtree(path, ignore_errors=True)

    def latest(self) -> Checkpoint | None:
        """The newest valid checkpoint, None when there has never been one.

        Raises:
            CheckpointError: checkpoints exist but none is valid, or the newest valid one was made by other settings.
        """
        faults = []
        listed = self._listed()
        for _, path in reversed(listed):
            try:
                return self._read(path)
            except _Damaged as fault:
                faults.append(f"  {path.name}: {fault}")
        if not listed:
            return None
        raise CheckpointError(
            f"{self.folder} holds checkpoints but none can be used:\n" + "\n".join(faults) + "\n"
            "Move the folder away to start over."
        )

    def _read(self, path: Path) -> Checkpoint:
        _verify(path)
        record = read_json(path / _FILES[1])
        if record["config_hash"] != self.config_hash:
            raise CheckpointError(
                f"{path} was made by other settings (hash {record['config_hash']}, this run has {self.config_hash}). "
                "Run with the same settings to go on, or move the folder away to start over."
            )
        return Checkpoint(step=record["step"], tensors=load_file(path / _FILES[0]), state=record["state"])


class _Damaged(Exception):
    """Why a checkpoint cannot be used."""


def _verify(path: Path) -> None:
    try:
        files = read_json(path / "manifest.json")["files"]
    except (ConfigError, KeyError) as error:
        raise _Damaged(f"manifest.json is missing or damaged ({error})") from None
    for name in _FILES:
        file = path / name
        if not file.is_file():
            raise _Damaged(f"{name} is missing")
        if file.stat().st_size != files[name]["size"] or file_sha256(file) != files[name]["sha256"]:
            raise _Damaged(f"{name} does not match the manifest")
