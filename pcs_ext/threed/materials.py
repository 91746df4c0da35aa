"""What a surface is made of at every point: colour, roughness, metalness, as a field that trains."""

import dataclasses
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.types import ParameterGroup
from pcs_ext.threed.fields import Bounds, HashGrid

_RAW_ROUGHNESS, _RAW_METALLIC = 1.4, -3.0
"""Before the sigmoid: a material starts at a roughness of 0.8 and a metalness of 0.05."""


@dataclasses.dataclass(frozen=True)
class Material:
    """A surface at `n` points (the metallic-roughness model of glTF 2.0)."""

    albedo: Tensor
    """`n 3` in [0, 1]: base colour."""
    roughness: Tensor
    """`n` in (0, 1); its square is the width of the microfacets."""
    metallic: Tensor
    """`n` in [0, 1]."""


@config
class MaterialConfig:
    """A field of materials before training."""

    kind: Literal["voxel", "hash"] = "voxel"
    """voxel: a dense grid, the fastest on a CPU; hash: hash grid and small network (TextureDreamer)."""
    resolution: int = 96
    """voxel: samples per side; hash: cells per side of the finest level."""
    learning_rate: float = 0.02
    """Of all its values (TextureDreamer: 0.01 for the grid, 0.001 for the network)."""

    def __post_init__(self) -> None:
        if not 8 <= self.resolution <= 2048 or self.learning_rate <= 0:
            raise ConfigError(
                f"a material field needs a resolution of 8 to 2048 and a positive learning rate, got {self.resolution} "
                f"and {self.learning_rate}."
            )

    def build(self, bounds: Bounds, seed: int = 0) -> "MaterialField":
        """A fresh grey field; the seed is that of a hash field's starting values."""
        return MaterialField(self, bounds, seed)


class MaterialField(nn.Module):
    """Materials in a cube; outside it, those at its walls.

    Args:
        settings: kind and resolution.
        bounds: the cube.
        seed: of a hash field.
    """

    def __init__(self, settings: MaterialConfig, bounds: Bounds, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.bounds = settings, bounds
        if settings.kind == "voxel":
            start = torch.tensor([0.0, 0, 0, _RAW_ROUGHNESS, _RAW_METALLIC])
            self.values = nn.Parameter(start.view(1, 5, 1, 1, 1).repeat(1, 1, *[settings.resolution] * 3))
            return
        self.grid = HashGrid(finest=settings.resolution, seed=seed)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.network = nn.Sequential(nn.Linear(self.grid.width, 32), nn.ReLU(), nn.Linear(32, 5))
        with torch.no_grad():
            self.network[2].bias.add_(torch.tensor([0.0, 0, 0, _RAW_ROUGHNESS, _RAW_METALLIC]))  # type: ignore

    @property
    def device(self) -> torch.device:
        """Where its tensors are, and points are asked."""
        return next(self.parameters()).device

    def query(self, points: Tensor) -> Material:
        """Material at world points `n 3`. Differentiable in the field and in the points."""
        local = self.bounds.normalized(points)
        if self.settings.kind == "voxel":
            raw = functional.grid_sample(
                self.values, local.view(1, 1, 1, -1, 3), padding_mode="border", align_corners=True
            ).view(5, -1)
        else:
            raw = self.network(self.grid(local.clamp(-1, 1) * 0.5 + 0.5)).T
        values = torch.sigmoid(raw)
        return Material(albedo=values[:3].T, roughness=values[3], metallic=values[4])

    @torch.no_grad()
    def paint(self, places: Tensor, colors: Tensor) -> None:
        """Start with these colours `n 3` in [0, 1] at world points `n 3`: every voxel takes the nearest one's.

        Raises:
            ConfigError: a hash field, whose values are not places.
        """
        if self.settings.kind != "voxel":
            raise ConfigError("only a voxel field of materials can start with given colours; set its kind to voxel.")
        from scipy.spatial import KDTree  # comes with scikit-image

        side = self.settings.resolution
        line = torch.linspace(-1, 1, side) * self.bounds.half
        z, y, x = torch.meshgrid(line, line, line, indexing="ij")
        voxels = torch.stack([x, y, z], -1).view(-1, 3) + torch.tensor(self.bounds.center)
        nearest = torch.from_numpy(np.asarray(KDTree(places.numpy()).query(voxels.numpy())[1]))
        raw = torch.logit(colors.clamp(0.02, 0.98))[nearest].T.reshape(3, side, side, side)
        self.values[0, :3] = raw

    def groups(self) -> list[ParameterGroup]:
        """What trains."""
        rate = self.settings.learning_rate
        if self.settings.kind == "voxel":
            return [ParameterGroup(name="materials", parameters=(self.values,), learning_rate=rate)]
        network = tuple(self.network.parameters())
        return [
            ParameterGroup(name="materials/tables", parameters=tuple(self.grid.parameters()), learning_rate=rate),
            ParameterGroup(name="materials/network", parameters=network, learning_rate=rate / 10),
        ]
