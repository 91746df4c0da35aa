"""Strict JSON for frozen dataclasses, and files that appear whole or not at all."""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import tempfile
import types
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, TypeVar, dataclass_transform

from pcs_ext.errors import ArtifactError, ConfigError, InputError

T = TypeVar("T")


@dataclass_transform(kw_only_default=True, frozen_default=True)
def config(cls: type[T]) -> type[T]:
    """Class decorator: a frozen, keyword-only dataclass.

    Its JSON form rejects unknown keys at every level, and NaN and Infinity, which Python's reader lets through.
    """
    cls.__pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}  # type: ignore[attr-defined]
    return dataclasses.dataclass(frozen=True, kw_only=True)(cls)


def to_jsonable(value: Any) -> Any:
    """Plain JSON data of a config value: dataclasses become objects, tuples lists, paths strings."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_jsonable(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {str(key): to_jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_jsonable(item) for item in value]
    if isinstance(value, Path):
        return str(value)
    return value


def from_jsonable(cls: Any, data: Any, *, where: str = "config") -> Any:
    """Build a `@config` dataclass, or one member of a union of them, from JSON data.

    Raises:
        ConfigError: unknown key, missing key, wrong type; every fault is listed with its path in the data.
    """
    import pydantic

    try:
        return _reader(cls).validate_python(data)
    except pydantic.ValidationError as error:
        faults = [f"  {'.'.join(map(str, e['loc'])) or '(top)'}: {e['msg']}" for e in error.errors()]
        raise ConfigError(f"{where} does not fit {_type_name(cls)}:\n" + "\n".join(faults)) from None


@functools.lru_cache(maxsize=256)
def _reader(cls: Any) -> Any:
    """To build one takes pydantic longer than to read anything with it: up to 40 ms for the union of all recipes."""
    import pydantic

    return pydantic.TypeAdapter(cls)


def _type_name(cls: Any) -> str:
    """ "A or B" for a union, also inside `Annotated`."""
    if typing.get_origin(cls) is Annotated:
        return _type_name(typing.get_args(cls)[0])
    if typing.get_origin(cls) in (typing.Union, types.UnionType):
        return " or ".join(_type_name(member) for member in typing.get_args(cls))
    return getattr(cls, "__name__", str(cls))


def config_hash(value: Any) -> str:
    """First 16 hex digits of the sha256 of the value's canonical JSON."""
    return hashlib.sha256(json.dumps(to_jsonable(value), sort_keys=True).encode()).hexdigest()[:16]


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's bytes, read in blocks."""
    with open(path, "rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """JSON data of a file.

    Raises:
        ConfigError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8-sig"))  # editors on Windows put a mark in front
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; expected a JSON file there.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is not valid JSON ({error}).") from None
    except (RecursionError, ValueError):  # the second of a number of thousands of digits
        raise ConfigError(f"{path} is nested too deeply, or its numbers are too long, to be a configuration.") from None


def check_place(path: Path) -> None:
    """See, before long work, that `path` can be written: its nearest folder is a folder, and one to write into.

    Raises:
        InputError: it is a file, or cannot be written to.
    """
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    if not folder.is_dir():
        raise InputError(f"{path} cannot be written: {folder} is a file, expected a folder; choose another --output.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{path} cannot be written: {folder} is read-only for you; choose another --output.")


def check_output(output: Path, overwrite: bool) -> None:
    """See, before long work, that an output can be written and replaces nothing that nobody gave up.

    Raises:
        ArtifactError: it is there already.
        InputError: see `check_place`.
    """
    if output.exists() and not overwrite:
        raise ArtifactError(f"{output} exists already; choose another --output or pass --overwrite to replace it.")
    check_place(output)


def atomic_write_bytes(path: Path, data: bytes) -> None:
    """Write a file by temp name, fsync and rename: readers see the old file or the new one, never half of it."""
    _atomic_write(path, lambda handle: handle.write(data))


def atomic_write_text(path: Path, text: str) -> None:
    """`atomic_write_bytes` of UTF-8 text."""
    atomic_write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write a config value as indented JSON, atomically."""
    atomic_write_text(path, json.dumps(to_jsonable(value), indent=2, ensure_ascii=False) + "\n")


def _atomic_write(path: Path, write: Callable[[Any], Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{path.name}."
    handle = tempfile.NamedTemporaryFile(dir=path.parent, prefix=prefix, suffix=".tmp", delete=False)  # noqa: SIM115
    try:
        with handle:
            write(handle)
            handle.flush()
            os.fsync(handle.fileno())
        os.chmod(handle.name, 0o666 & ~_umask())
        os.replace(handle.name, path)
    except BaseException:
        Path(handle.name).unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a hidden folder to fill; on success it takes the name `path`, on any error it is removed.

    An existing folder at `path` is moved aside first and deleted only after the new one is in place.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
    try:
        yield temporary
        for file in temporary.rglob("*"):
            if file.is_file():
                _fsync(file)
        os.chmod(temporary, 0o777 & ~_umask())
        _swap_in(temporary, path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _swap_in(temporary: Path, path: Path) -> None:
    old = None
    if path.exists():
        old = path.with_name(f".{path.name}.{os.getpid()}.old")
        os.replace(path, old)
    try:
        os.replace(temporary, path)
    except BaseException:
        if old is not None and not path.exists():
            os.replace(old, path)
        raise
    fsync_folder(path.parent)
    if old is not None:
        shutil.rmtree(old)


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def fsync_folder(path: Path) -> None:
    """Make a rename inside `path` durable."""
    _fsync(path)


def _umask() -> int:
    # The only portable way to read the mask is to set it; the window is this line.
    mask = os.umask(0)
    os.umask(mask)
    return mask
