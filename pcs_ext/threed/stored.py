"""Modules on disk: their settings as JSON, their tensors as safetensors, both or neither."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from pcs_ext.config_io import atomic_folder, from_jsonable, read_json, write_json
from pcs_ext.errors import ConfigError, InputError

Module = TypeVar("Module", bound=nn.Module)


def store(folder: Path, stem: str, module: nn.Module, settings: Any) -> None:
    """Write `STEM.json` and `STEM.safetensors`; the folder appears whole or not at all."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
    with atomic_folder(folder) as target:
        save_file(tensors, target / f"{stem}.safetensors")
        write_json(target / f"{stem}.json", settings)


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Tensors that a job wrote.

    Raises:
        InputError: the file is missing or damaged.
    """
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        reason = "it is not there" if isinstance(error, FileNotFoundError) else str(error).splitlines()[0]
        raise InputError(f"{file} is damaged or incomplete ({reason}); expected what a 3D job wrote.") from None


def fill(module: Any, file: Path) -> None:
    """Put the tensors that a job wrote into a module, or whatever else has a `load_state_dict`.

    Raises:
        InputError: the file is missing, damaged, or of other settings.
    """
    tensors = read_tensors(file)
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{file} does not fit what it is read for ({str(error).splitlines()[0]}).") from None


def restored(folder: Path, stem: str, settings: Any, build: Callable[[Any], Module]) -> Module:
    """What `store` wrote.

    Args:
        folder: where.
        stem: of the two files' names.
        settings: type of the settings.
        build: makes a module of them.

    Raises:
        InputError: a file is missing or damaged.
    """
    files = (f"{stem}.json", f"{stem}.safetensors")
    missing = [name for name in files if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} holds no {stem} ({', '.join(missing)} missing); expected what a 3D job wrote.")
    try:
        module = build(from_jsonable(settings, read_json(folder / files[0]), where=str(folder / files[0])))
        module.load_state_dict(load_file(folder / files[1]))
    except (ConfigError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{folder} is damaged, or of another version ({str(error).splitlines()[0]}).") from None
    return module
