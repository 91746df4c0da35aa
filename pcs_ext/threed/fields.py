"""Radiance fields: density and colour at points, behind one `query`."""

import abc
import dataclasses
import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from pcs_ext.config_io import config
from pcs_ext.image.types import ParameterGroup
from pcs_ext.threed.cameras import Vector


@config
class Bounds:
    """The cube a field lives in; outside nothing is."""

    center: Vector = (0.0, 0.0, 0.75)
    """World units."""
    half: float = 1.5
    """Half the side, world units."""

    def normalized(self, points: Tensor) -> Tensor:
        """World points `... 3` to [-1, 1] inside the cube."""
        return (points - points.new_tensor(self.center)) / self.half


@config
class Blob:
    """Where density starts: Magic3D's ramp, height * (1 - r / radius), added before the softplus (arXiv 2211.10440).

    Height 0 is no blob.
    """

    height: float = 10.0
    """At the centre, before the softplus."""
    radius: float = 0.5
    """Where it is 0, as a share of the cube's half side."""

    def __call__(self, points: Tensor) -> Tensor:
        """Raw density at normalised points `n 3`: `n`, never below -height."""
        return (self.height * (1 - points.norm(dim=-1) / self.radius)).clamp_min(-self.height)


@dataclasses.dataclass(frozen=True)
class Queried:
    """What a field holds at `n` points."""

    density: Tensor
    """`n`, per world unit, 0 or more."""
    albedo: Tensor
    """`n 3` in [0, 1]."""


@dataclasses.dataclass(frozen=True)
class Along:
    """The stretches of rays that `n` points stand for."""

    directions: Tensor
    """`n 3`, unit."""
    before: Tensor
    """`n`: from where a stretch begins to its point, world units."""
    after: Tensor
    """`n`: from there to its end."""


class AbstractField(nn.Module, abc.ABC):
    """A differentiable density and colour in a cube."""

    bounds: Bounds

    @property
    def device(self) -> torch.device:
        """Where its tensors are, and points are asked; of a field without any, the CPU."""
        return next((value.device for value in self.parameters()), torch.device("cpu"))

    @abc.abstractmethod
    def query(self, points: Tensor) -> Queried:
        """Density and albedo at world points `n 3`; density is 0 outside the cube. Differentiable."""

    def query_along(self, points: Tensor, along: Along) -> Queried:
        """What a ray meets around `points`: the mean density of its stretches. Here, that of the points."""
        return self.query(points)

    def density(self, points: Tensor) -> Tensor:
        """What `query` finds of density alone, `n`; cheaper where colours are stored apart."""
        return self.query(points).density

    @abc.abstractmethod
    def groups(self) -> list[ParameterGroup]:
        """What trains, with its usual learning rates."""

    def advance(self, progress: float) -> None:
        """Tell the share of training done, in [0, 1]; fields that grow finer do so here."""

    def normals(self, points: Tensor, step: float = 0.02) -> Tensor:
        """Outward unit normals `n 3`: minus the density's gradient, by central differences. Differentiable.

        Differs from DreamFusion (automatic differentiation): trilinear lookups have no second derivative to train
        through.

        Args:
            points: world points `n 3`.
            step: of the differences, as a share of the cube's half side.
        """
        offsets = torch.eye(3, device=points.device, dtype=points.dtype) * (step * self.bounds.half)
        both = torch.cat([points[:, None] + offsets, points[:, None] - offsets], 1)
        density = self.density(both.reshape(-1, 3)).view(-1, 6)
        return functional.normalize(density[:, 3:] - density[:, :3], dim=-1, eps=1e-8)


class VoxelField(AbstractField):
    """A dense grid, trilinear in raw density and raw colour: the fastest field on a CPU."""

    def __init__(self, resolution: int = 64, bounds: Bounds | None = None, blob: Blob | None = None) -> None:
        super().__init__()
        self.bounds = bounds or Bounds()
        line = torch.linspace(-1, 1, resolution)
        z, y, x = torch.meshgrid(line, line, line, indexing="ij")
        start = (blob or Blob(height=0.0))(torch.stack([x, y, z], -1).view(-1, 3)).view(1, 1, *x.shape)
        self.density_grid = nn.Parameter(start.clone())
        self.albedo_grid = nn.Parameter(torch.zeros(1, 3, *x.shape))

    def query(self, points: Tensor, change: Tensor | None = None) -> Queried:
        """See `AbstractField.query`; with something added to raw density and colour, `1 4 d h w`, where it is given."""
        grid = torch.cat([self.density_grid, self.albedo_grid], 1)
        values, inside = self._looked_up(grid if change is None else grid + change, points)
        return Queried(functional.softplus(values[0]) * inside, torch.sigmoid(values[1:]).T)

    def density(self, points: Tensor) -> Tensor:
        """See `AbstractField.density`."""
        values, inside = self._looked_up(self.density_grid, points)
        return functional.softplus(values[0]) * inside

    def _looked_up(self, grid: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Trilinear values of a grid `1 c d h w`, `c n`, and whether the points are in the cube, `n`."""
        local = self.bounds.normalized(points)
        values = functional.grid_sample(
            grid, local.view(1, 1, 1, -1, 3), mode="bilinear", padding_mode="border", align_corners=True
        )
        return values.view(grid.shape[1], -1), (local.abs() <= 1).all(-1)

    def groups(self) -> list[ParameterGroup]:
        """Density and colour."""
        return [
            ParameterGroup(name="density", parameters=(self.density_grid,), learning_rate=0.3),
            ParameterGroup(name="albedo", parameters=(self.albedo_grid,), learning_rate=0.1),
        ]


_PRIMES = (1, 2_654_435_761, 805_459_861)
"""Of the spatial hash (Mueller et al. 2022, arXiv 2201.05989, eq. 4)."""


class HashGrid(nn.Module):
    """Features at several resolutions, hashed where a level has more corners than its table (arXiv 2201.05989)."""

    def __init__(
        self,
        *,
        levels: int = 8,
        features: int = 2,
        table: int = 2**15,
        coarsest: int = 8,
        finest: int = 128,
        seed: int = 0,
    ) -> None:
        super().__init__()
        growth = math.exp(math.log(finest / coarsest) / max(levels - 1, 1))
        self.resolutions = tuple(round(coarsest * growth**level) for level in range(levels))
        self.sizes = tuple(min((side + 1) ** 3, table) for side in self.resolutions)
        generator = torch.Generator().manual_seed(seed)
        start = [(torch.rand(size, features, generator=generator) * 2 - 1) * 1e-4 for size in self.sizes]
        self.tables = nn.ParameterList([nn.Parameter(values) for values in start])
        self.open_levels = levels
        """Levels in use; the finer ones read as zero (progressive band, Li et al. 2023, arXiv 2306.03092)."""

    @property
    def width(self) -> int:
        """Features per point."""
        return sum(values.shape[1] for values in self.tables)

    def forward(self, unit: Tensor) -> Tensor:
        """Features `n width` at points `n 3` in [0, 1]."""
        levels = [self._level(level, unit) for level in range(self.open_levels)]
        closed = self.width - sum(values.shape[1] for values in levels)
        return torch.cat([*levels, unit.new_zeros(len(unit), closed)], 1)

    def _level(self, level: int, unit: Tensor) -> Tensor:
        side = self.resolutions[level]
        scaled = unit * side
        low = scaled.detach().floor().clamp(0, side - 1)
        share = scaled - low
        corner = torch.tensor([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)], device=unit.device)
        index = self._index(level, low.long()[:, None] + corner)
        x, y, z = torch.stack([1 - share, share], -1).unbind(1)  # n 2 each
        weight = (x[:, :, None, None] * y[:, None, :, None] * z[:, None, None, :]).flatten(1)
        rows = functional.embedding(index, self.tables[level])
        return (rows * weight[..., None]).sum(1)

    def _index(self, level: int, corners: Tensor) -> Tensor:
        side, size = self.resolutions[level], self.sizes[level]
        x, y, z = corners.unbind(-1)
        if (side + 1) ** 3 <= size:
            return (x * (side + 1) + y) * (side + 1) + z
        return ((x * _PRIMES[0]) ^ (y * _PRIMES[1]) ^ (z * _PRIMES[2])) % size


class HashField(AbstractField):
    """A hash grid and a small network: finer than voxels at equal memory, slower on a CPU."""

    def __init__(
        self, grid: HashGrid | None = None, bounds: Bounds | None = None, blob: Blob | None = None, seed: int = 0
    ) -> None:
        super().__init__()
        self.bounds, self.blob = bounds or Bounds(), blob or Blob(height=0.0)
        self.grid = grid or HashGrid(seed=seed)
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            self.network = nn.Sequential(nn.Linear(self.grid.width, 32), nn.ReLU(), nn.Linear(32, 4))

    def query(self, points: Tensor) -> Queried:
        """See `AbstractField.query`."""
        local = self.bounds.normalized(points)
        inside = (local.abs() <= 1).all(-1)
        values = self.network(self.grid(local.clamp(-1, 1) * 0.5 + 0.5))
        return Queried(functional.softplus(values[:, 0] + self.blob(local)) * inside, torch.sigmoid(values[:, 1:]))

    def advance(self, progress: float) -> None:
        """Half of the levels at first, all from the middle of training on."""
        levels = len(self.grid.resolutions)
        self.grid.open_levels = min(levels, math.ceil(levels * (0.5 + progress)))

    def groups(self) -> list[ParameterGroup]:
        """Tables and network, with the learning rate of arXiv 2201.05989 for both."""
        return [
            ParameterGroup(name="tables", parameters=tuple(self.grid.parameters()), learning_rate=1e-2),
            ParameterGroup(name="network", parameters=tuple(self.network.parameters()), learning_rate=1e-2),
        ]
