"""Which cells of a field's cube hold anything, so that empty space costs nothing."""

import torch
from torch import Tensor
from torch.nn import functional

from pcs_ext.threed.fields import AbstractField


class Occupancy:
    """A boolean grid over a field's cube; everything counts as occupied until `update`."""

    def __init__(self, field: AbstractField, resolution: int = 32, threshold: float = 0.05) -> None:
        self.field, self.threshold = field, threshold
        self.cells = torch.ones((resolution,) * 3, dtype=torch.bool, device=field.device)
        """Indexed z, y, x."""

    @torch.no_grad()
    def update(self, generator: torch.Generator | None = None) -> None:
        """Look at the density in every cell (at its middle, or at 4 random places), then grow by one cell each way.

        A cell is occupied where density exceeds the threshold (per world unit).
        """
        side = self.cells.shape[0]
        line = torch.arange(side, device=self.cells.device)
        z, y, x = torch.meshgrid(line, line, line, indexing="ij")
        corner = torch.stack([x, y, z], -1).view(-1, 3).float()
        densest = corner.new_zeros(len(corner))
        for _ in range(1 if generator is None else 4):
            place = 0.5 if generator is None else torch.rand(corner.shape, generator=generator).to(corner)
            unit = (corner + place) * (2 / side) - 1
            bounds = self.field.bounds
            density = self.field.density(unit * bounds.half + unit.new_tensor(bounds.center))
            densest = torch.maximum(densest, density)
        full = (densest > self.threshold).float().view(1, 1, side, side, side)
        self.cells = functional.max_pool3d(full, 3, 1, 1)[0, 0] > 0

    def __call__(self, points: Tensor) -> Tensor:
        """Whether world points `n 3` lie in occupied cells, `n` bool; False outside the cube."""
        local = self.field.bounds.normalized(points)
        side = self.cells.shape[0]
        x, y, z = ((local + 1) * (side / 2)).long().clamp(0, side - 1).unbind(-1)
        return self.cells[z, y, x] & (local.abs() <= 1).all(-1)
