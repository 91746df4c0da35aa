"""Which field: a value that builds one, and fields on disk."""

from pathlib import Path
from typing import Literal

import torch

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.threed.fields import AbstractField, Blob, Bounds, HashField, HashGrid, VoxelField
from pcs_ext.threed.sdf_field import Opacity, SdfField
from pcs_ext.threed.stored import restored, store


@config
class FieldConfig:
    """A field before training."""

    kind: Literal["voxel", "hash", "sdf"] = "voxel"
    """voxel: a dense grid, the fastest on a CPU; hash: a multi-resolution hash grid and a small network; sdf: signed
    distances on a dense grid."""
    resolution: int = 64
    """voxel, sdf: samples per side; hash: cells per side of the finest level."""
    bounds: Bounds = Bounds()
    """The cube it lives in."""
    blob: Blob = Blob(height=10.0, radius=0.5)
    """Where density starts; of sdf's ball the radius."""
    template: Literal["ball", "body"] = "ball"
    """sdf: what it starts as, a ball or a standing body of capsules."""
    opacity: Opacity = "volsdf"
    """sdf: how distances become density, as in VolSDF or as in NeuS."""

    def __post_init__(self) -> None:
        if not 8 <= self.resolution <= 1024:
            raise ConfigError(f"a field's resolution must be 8 to 1024, got {self.resolution}.")
        if self.template != "ball" and self.kind != "sdf":
            raise ConfigError(f"only a field of kind sdf starts as a {self.template}, got kind {self.kind}.")

        if self.opacity != "volsdf" and self.kind != "sdf":
            raise ConfigError(f"only a field of kind sdf has the opacity of {self.opacity}, got kind {self.kind}.")

    def build(self, seed: int = 0) -> AbstractField:
        """A fresh field; the seed is that of a hash field's starting values."""
        if self.kind == "voxel":
            return VoxelField(self.resolution, self.bounds, self.blob)
        if self.kind == "sdf":
            radius = self.blob.radius * self.bounds.half if self.template == "ball" else None
            return SdfField(self.resolution, self.bounds, radius, self.opacity)
        return HashField(HashGrid(finest=self.resolution, seed=seed), self.bounds, self.blob, seed)


def save_field(field: AbstractField, settings: FieldConfig, folder: Path) -> None:
    """Write `field.json` and `field.safetensors`; the folder appears whole or not at all."""
    store(folder, "field", field, settings)


def load_field(folder: Path, device: str | torch.device = "cpu") -> AbstractField:
    """What `save_field` wrote.

    Raises:
        InputError: a file is missing or damaged.
    """
    field = restored(folder, "field", FieldConfig, lambda settings: settings.build())
    field.advance(1.0)
    return field.to(device)
