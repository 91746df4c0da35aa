"""A box in the world: what lies in it, and which pixels look through it."""

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.threed.cameras import Cameras, Rays, Vector, rays


@config
class Box:
    """Upright, by two corners."""

    low: Vector
    """Least x, y and z, world units."""
    high: Vector
    """Greatest, world units."""

    def __post_init__(self) -> None:
        if not all(a < b for a, b in zip(self.low, self.high, strict=True)):
            raise ConfigError(f"a box has its low corner first in x, y and z, got {self.low} and {self.high}.")

    @property
    def middle(self) -> Vector:
        """World units."""
        x, y, z = ((a + b) / 2 for a, b in zip(self.low, self.high, strict=True))
        return x, y, z

    @property
    def half(self) -> float:
        """Half of the longest side, world units."""
        return max(b - a for a, b in zip(self.low, self.high, strict=True)) / 2

    def contains(self, points: Tensor) -> Tensor:
        """Which of the points `n 3` lie inside or on the walls, `n` bool."""
        return ((points >= points.new_tensor(self.low)) & (points <= points.new_tensor(self.high))).all(-1)

    def crossed(self, bundle: Rays) -> Tensor:
        """Which of `n` rays pass through, `n` bool."""
        low, high = bundle.origins.new_tensor(self.low), bundle.origins.new_tensor(self.high)
        safe = torch.where(bundle.directions.abs() < 1e-9, 1e-9, bundle.directions)
        one, two = (low - bundle.origins) / safe, (high - bundle.origins) / safe
        enter, leave = torch.minimum(one, two).amax(-1), torch.maximum(one, two).amin(-1)
        return leave > enter.clamp_min(0)

    def masks(self, cameras: Cameras, side: int) -> Tensor:
        """Where `b` square pictures look through the box, `b side side` in {0, 1}."""
        return self.crossed(rays(cameras, side, side)).view(len(cameras), side, side).float()
