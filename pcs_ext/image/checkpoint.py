"""Checkpoints that a kill at any moment cannot spoil.

A checkpoint is a folder `step-00000100` with `tensors.safetensors`, `state.json` and `manifest.json` (size and sha256
of the other two). It is written under a hidden name and appears by one rename.
"""

import contextlib
import dataclasses
import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pcs_ext.config_io import file_sha256, fsync_folder, read_json, write_json
from pcs_ext.errors import CheckpointError, ConfigError, ResourceError
from pcs_ext.reporter import Reporter, SilentReporter

_NAME = re.compile(r"step-(\d{8})")
_LEFTOVER = re.compile(r"\.step-\d{8}\.(\d+)\.(?:tmp|old)")
_FILES = ("tensors.safetensors", "state.json")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One valid checkpoint, read into memory."""

    step: int
    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors below `prefix/`, without it."""
        start = f"{prefix}/"
        return {key.removeprefix(start): value for key, value in self.tensors.items() if key.startswith(start)}


class CheckpointFolder:
    """The checkpoints of one run.

    Args:
        folder: where they live; made on the first save.
        config_hash: of everything that must not change between start and resume.
        keep: how many to keep; older ones go only after a newer one is in place.
        reporter: hears of checkpoints that were skipped.
    """

    def __init__(self, folder: Path, *, config_hash: str = "", keep: int = 2, reporter: Reporter | None = None) -> None:
        self.folder = folder
        self.config_hash = config_hash
        self.keep = max(1, keep)
        self.reporter = reporter or SilentReporter()

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Hold the folder against a second writer; the system lets go of it when this process ends, however it ends.

        Raises:
            CheckpointError: another run holds it.
            ResourceError: the folder cannot be made.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            handle = open(self.folder / ".lock", "a+", encoding="utf-8")  # noqa: SIM115 (closed below)
        except OSError as error:
            raise _no_room(self.folder, error) from None
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                handle.seek(0)
                raise CheckpointError(
                    f"{self.folder} is in use by another run (process {handle.read().strip() or 'unknown'}). Wait for "
                    "it, stop it, or choose another output."
                ) from None
            handle.truncate(0)
            handle.write(str(os.getpid()))
            handle.flush()
            self.sweep()
            yield

    def save(self, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
        """Write a checkpoint; it is complete and durable when this returns.

        Raises:
            ResourceError: it cannot be written, for instance because the disk is full; earlier ones are intact.
        """
        final = self.folder / f"step-{step:08d}"
        temporary = self.folder / f".{final.name}.{os.getpid()}.tmp"
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            self._write(temporary, step, tensors, state)
            if final.exists():
                self._discard(final)
            os.replace(temporary, final)
            fsync_folder(self.folder)
        except (OSError, SafetensorError) as error:
            shutil.rmtree(temporary, ignore_errors=True)
            raise _no_room(final, error) from None
        self._rotate(step)
        return final

    def _write(self, folder: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        save_file(_separate(tensors), folder / _FILES[0])
        with open(folder / _FILES[0], "rb") as handle:
            os.fsync(handle.fileno())
        write_json(folder / _FILES[1], {"step": step, "config_hash": self.config_hash, "state": dict(state)})
        sizes = {name: (folder / name).stat().st_size for name in _FILES}
        files = {name: {"size": size, "sha256": file_sha256(folder / name)} for name, size in sizes.items()}
        write_json(folder / "manifest.json", {"schema_version": 1, "files": files})

    def _rotate(self, newest: int) -> None:
        kept = [path for step, path in self._listed() if step <= newest][-self.keep :]
        for step, path in self._listed():
            if step <= newest and path not in kept:
                self._discard(path)

    def _discard(self, path: Path) -> None:
        # Hidden first: a kill in the middle of the deletion must not leave half a checkpoint in sight.
        hidden = path.with_name(f".{path.name}.{os.getpid()}.old")
        os.replace(path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)

    def _listed(self) -> list[tuple[int, Path]]:
        found = [(int(m[1]), path) for path in self.folder.glob("step-*") if (m := _NAME.fullmatch(path.name))]
        return sorted(found)

    def sweep(self) -> None:
        """Remove half-written and half-deleted checkpoints whose process is dead."""
        for path in self.folder.glob(".step-*"):
            match = _LEFTOVER.fullmatch(path.name)
            if match and (int(match[1]) == os.getpid() or not psutil.pid_exists(int(match[1]))):
                shutil.rmtree(path, ignore_errors=True)

    def exists(self) -> bool:
        """Whether there is any checkpoint, valid or not."""
        return bool(self._listed())

    def latest(self) -> Checkpoint | None:
        """The newest valid checkpoint, None when there has never been one.

        Damaged ones that are newer are reported and kept aside under the name `damaged-...`.

        Raises:
            CheckpointError: checkpoints exist but none is valid, or the newest valid one was made by other settings.
        """
        faults: dict[Path, str] = {}
        for _, path in reversed(self._listed()):
            try:
                found = self._read(path)
            except _Damaged as fault:
                faults[path] = str(fault)
                continue
            for damaged, fault in faults.items():
                self._set_aside(damaged, fault)
            return found
        if not faults:
            return None
        listed = "\n".join(f"  {path.name}: {fault}" for path, fault in faults.items())
        raise CheckpointError(
            f"{self.folder} holds checkpoints but none can be used:\n{listed}\nMove the folder away to start over."
        )

    def _set_aside(self, path: Path, fault: str) -> None:
        names = (f"damaged-{path.name}{suffix}" for suffix in ["", *(f"-{i}" for i in range(2, 1000))])
        aside = next(path.with_name(name) for name in names if not path.with_name(name).exists())
        os.replace(path, aside)
        message = f"Skipped the damaged checkpoint {path.name} ({fault}); it is kept as {aside.name}."
        self.reporter.event("checkpoint-damaged", message, path=str(aside), fault=fault)

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
        files = {name: dict(read_json(path / "manifest.json")["files"][name]) for name in _FILES}
    except (ConfigError, OSError, KeyError, TypeError, ValueError) as error:
        raise _Damaged(f"manifest.json is missing or damaged: {error}") from None
    for name, expected in files.items():
        file = path / name
        if not file.is_file():
            raise _Damaged(f"{name} is missing")
        found = {"size": file.stat().st_size, "sha256": file_sha256(file)}
        if found != expected:
            raise _Damaged(f"{name} does not match the manifest")


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CPU tensors that share no memory with each other, which the file format asks for."""
    separate: dict[str, Tensor] = {}
    storages: set[int] = set()
    for name, tensor in tensors.items():
        copy = tensor.detach().cpu().contiguous()
        if copy.untyped_storage().data_ptr() in storages:
            copy = copy.clone()
        storages.add(copy.untyped_storage().data_ptr())
        separate[name] = copy
    return separate


def _no_room(path: Path, error: Exception) -> ResourceError:
    return ResourceError(
        f"could not write {path}: {error}. Earlier checkpoints are intact; make room (or the folder writable) and run "
        "the same command again to go on."
    )
