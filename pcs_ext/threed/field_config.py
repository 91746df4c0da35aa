"""Which field: a value that builds one, and fields on disk."""

from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from pcs_ext.config_io import atomic_folder, config, from_jsonable, read_json, write_json
from pcs_ext.errors import ConfigError, InputError
from pcs_ext.threed.fields import AbstractField, Blob, Bounds, HashField, HashGrid, VoxelField

_FILES = ("field.json", "field.safetensors")


@config
class FieldConfig:
    """A field before training."""

    kind: Literal["voxel", "hash"] = "voxel"
    """voxel: a dense grid, the fastest on a CPU; hash: a multi-resolution hash grid and a small network."""
    resolution: int = 64
    """voxel: samples per side; hash: cells per side of the finest level."""
    bounds: Bounds = Bounds()
    """The cube it lives in."""
    blob: Blob = Blob(height=10.0, radius=0.5)
    """Where density starts."""

    def __post_init__(self) -> None:
        if not 8 <= self.resolution <= 1024:
            raise ConfigError(f"a field's resolution must be 8 to 1024, got {self.resolution}.")

    def build(self, seed: int = 0) -> AbstractField:
        """A fresh field; the seed is that of a hash field's starting values."""
        if self.kind == "voxel":
            return VoxelField(self.resolution, self.bounds, self.blob)
        return HashField(HashGrid(finest=self.resolution, seed=seed), self.bounds, self.blob, seed)


def save_field(field: AbstractField, settings: FieldConfig, folder: Path) -> None:
    """Write `field.json` and `field.safetensors`; the folder appears whole or not at all."""
    tensors = {name: value.detach().cpu().contiguous() for name, value in field.state_dict().items()}
    with atomic_folder(folder) as target:
        save_file(tensors, target / _FILES[1])
        write_json(target / _FILES[0], settings)


def load_field(folder: Path, device: str | torch.device = "cpu") -> AbstractField:
    """What `save_field` wrote.

    Raises:
        InputError: a file is missing or damaged.
    """
    missing = [name for name in _FILES if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{folder} holds no field ({', '.join(missing)} missing); expected what `3d make` wrote.")
    try:
        settings = from_jsonable(FieldConfig, read_json(folder / _FILES[0]), where=str(folder / _FILES[0]))
        field = settings.build()
        field.load_state_dict(load_file(folder / _FILES[1]))
    except (ConfigError, SafetensorError, RuntimeError) as error:
        raise InputError(f"{folder} is damaged, or of another version ({str(error).splitlines()[0]}).") from None
    field.advance(1.0)
    return field.to(device)
