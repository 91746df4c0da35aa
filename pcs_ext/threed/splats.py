"""Gaussian splats: a cloud of soft ellipsoids with one colour each (Kerbl et al. 2023, arXiv 2308.04079), degree 0."""

import abc
import dataclasses
import math
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.types import ParameterGroup
from pcs_ext.threed.fields import AbstractField, Bounds, Queried
from pcs_ext.threed.stored import restored, store

_BLOCKS = 24
"""Blocks per side of the cube in which `query` looks for splats near its points."""
_REACH = 3.0
MOST_OPAQUE = 0.99
"""Of a splat, in pictures and in fields."""
"""Standard deviations beyond which a splat's density counts as 0."""


@config
class SplatRates:
    """Learning rates. The defaults are TIP-Editor's released ones (arXiv 2401.14828)."""

    place: float = 1e-3
    """Of middles, world units."""
    color: float = 0.01
    """Of colours before the sigmoid."""
    opacity: float = 0.1
    """Of opacities before the sigmoid."""
    scale: float = 0.005
    """Of the logarithms of the standard deviations."""
    turn: float = 0.005
    """Of quaternions."""


@config
class SplatsConfig:
    """A cloud before training."""

    count: int
    """Splats, at least 1."""
    bounds: Bounds = Bounds()
    """The cube its mesh is cut out of; splats may stick out of it."""

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ConfigError(f"a cloud needs at least one splat, got {self.count}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cloud:
    """`n` splats as they are seen. Differentiable in what they come from."""

    places: Tensor
    """`n 3`: middles, world units."""
    covariances: Tensor
    """`n 3 3`: squared world units, positive definite."""
    opacities: Tensor
    """`n` in (0, 1): what a splat hides at its middle."""
    colors: Tensor
    """`n 3` in [0, 1]."""

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Tensor) -> "Cloud":
        """Some of the splats."""
        return Cloud(**{f.name: getattr(self, f.name)[index] for f in dataclasses.fields(self)})

    def __add__(self, other: "Cloud") -> "Cloud":
        """Both clouds' splats."""
        parts = {f.name: torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in dataclasses.fields(self)}
        return Cloud(**parts)

    def density(self, points: Tensor, bounds: Bounds) -> Queried:
        """Density and colour at world points `n 3`, as if splats were clouds of matter.

        A splat's density is a Gaussian whose peak hides `opacity` along a line through its middle on which it is as
        wide as on the mean axis: -log(1 - opacity) / (sqrt(2 pi) det(covariance)^(1/6)). Densities add up, colours mix
        by them. What is farther than three standard deviations counts as 0.

        Args:
            points: `m 3`.
            bounds: points outside have density 0.
        """
        found: list[tuple[Tensor, Tensor, Tensor]] = []
        # As in compositing, nothing hides all: float32 opacities reach 1, and its density would be infinite.
        hidden = self.opacities.clamp_max(MOST_OPAQUE)
        peak = -torch.log1p(-hidden) / (math.sqrt(2 * math.pi) * torch.det(self.covariances) ** (1 / 6))
        precision = torch.linalg.inv(self.covariances)
        reach = _REACH * self.covariances.diagonal(dim1=1, dim2=2).sqrt()
        for index, low, high in _blocks(points, bounds):
            near = ((self.places + reach >= low) & (self.places - reach <= high)).all(-1).nonzero()[:, 0]
            if not len(near):
                continue
            away = points[index, None] - self.places[near]
            squared = torch.einsum("mni,nij,mnj->mn", away, precision[near], away)
            shares = torch.where(squared < _REACH**2, peak[near] * torch.exp(-0.5 * squared), 0.0)
            found.append((index, shares.sum(1), shares @ self.colors[near]))
        density, mixed = points.new_zeros(len(points)), points.new_zeros(len(points), 3)
        if found:
            index, dense, colored = (torch.cat(column) for column in zip(*found, strict=True))
            density, mixed = density.index_copy(0, index, dense), mixed.index_copy(0, index, colored)
        return Queried(density, mixed / density.clamp_min(1e-12)[:, None])


def _blocks(points: Tensor, bounds: Bounds) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Points that share a block of the cube: their indices, and the corners of the box about them."""
    local = bounds.normalized(points)
    cell = ((local + 1) * (_BLOCKS / 2)).long().clamp(0, _BLOCKS - 1)
    inside = (local.abs() <= 1).all(-1).nonzero()[:, 0]
    key = ((cell[:, 0] * _BLOCKS + cell[:, 1]) * _BLOCKS + cell[:, 2])[inside]
    order = inside[key.argsort(stable=True)]
    _, counts = torch.unique_consecutive(key.sort().values, return_counts=True)
    return [
        (index, points[index].amin(0), points[index].amax(0)) for index in order.split(counts.tolist()) if len(index)
    ]


class AbstractSplats(AbstractField):
    """Clouds that train. As a field they answer with the density their splats would have as matter, so that everything
    made for fields works with them; pictures of them are composited (`splat_render`)."""

    @abc.abstractmethod
    def parts(self) -> tuple["Splats", ...]:
        """The clouds it is made of."""

    @abc.abstractmethod
    def groups(self, rates: SplatRates | None = None) -> list[ParameterGroup]:
        """What trains, at TIP-Editor's rates unless others are given."""

    def cloud(self) -> Cloud:
        """All that is alive, as it is seen. Differentiable."""
        first, *others = (part.seen() for part in self.parts())
        return sum(others, first)

    def query(self, points: Tensor) -> Queried:
        """See `AbstractField.query` and `Cloud.density`."""
        return self.cloud().density(points, self.bounds)


class Splats(AbstractSplats):
    """One cloud.

    Args:
        settings: how many, and in which cube.
    """

    alive: Tensor
    """`n` bool: False for splats that were pruned; they are not seen and do not train."""

    def __init__(self, settings: SplatsConfig) -> None:
        super().__init__()
        self.settings, self.bounds, count = settings, settings.bounds, settings.count
        self.places = nn.Parameter(torch.zeros(count, 3))
        self.log_scales = nn.Parameter(torch.full((count, 3), math.log(0.05)))
        self.turns = nn.Parameter(torch.tensor([1.0, 0, 0, 0]).repeat(count, 1))
        self.raw_opacities = nn.Parameter(torch.zeros(count))
        self.raw_colors = nn.Parameter(torch.zeros(count, 3))
        self.register_buffer("alive", torch.ones(count, dtype=torch.bool))

    def parts(self) -> tuple["Splats", ...]:
        """Itself."""
        return (self,)

    def seen(self) -> Cloud:
        """What is alive of it, as it is seen. Differentiable."""
        kept = self.alive.nonzero()[:, 0]
        axes = rotations(self.turns[kept]) * self.log_scales[kept].exp()[:, None]
        return Cloud(
            places=self.places[kept],
            covariances=axes @ axes.mT,
            opacities=torch.sigmoid(self.raw_opacities[kept]),
            colors=torch.sigmoid(self.raw_colors[kept]),
        )

    def groups(self, rates: SplatRates | None = None) -> list[ParameterGroup]:
        """Everything. See `AbstractSplats.groups`."""
        rates = rates or SplatRates()
        trained = {
            "places": (self.places, rates.place),
            "colors": (self.raw_colors, rates.color),
            "opacities": (self.raw_opacities, rates.opacity),
            "scales": (self.log_scales, rates.scale),
            "turns": (self.turns, rates.turn),
        }
        return [
            ParameterGroup(name=name, parameters=(parameter,), learning_rate=rate)
            for name, (parameter, rate) in trained.items()
        ]

    @torch.no_grad()
    def put(self, other: "Splats", chosen: Tensor, at: int = 0) -> None:
        """Copy some splats of another cloud, by index, over this one's from `at` on."""
        into = slice(at, at + len(chosen))
        for name, value in self.state_dict().items():
            value[into] = other.state_dict()[name][chosen]


def rotations(turns: Tensor) -> Tensor:
    """Rotation matrices `n 3 3` of quaternions `n 4`, real part first, of any length but 0."""
    w, x, y, z = functional.normalize(turns, dim=-1).unbind(-1)
    rows = [
        torch.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        torch.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        torch.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ]
    return torch.stack(rows, -2)


def save_splats(splats: Splats, folder: Path) -> None:
    """Write `splats.json` and `splats.safetensors`; the folder appears whole or not at all."""
    store(folder, "splats", splats, splats.settings)


def load_splats(folder: Path) -> Splats:
    """What `save_splats` wrote.

    Raises:
        InputError: a file is missing or damaged.
    """
    return restored(folder, "splats", SplatsConfig, Splats)
