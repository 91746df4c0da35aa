"""A field with a surface: signed distances on a grid, turned into density.

Either as VolSDF (arXiv 2106.12052) or as NeuS (arXiv 2106.10689) does it.
"""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from pcs_ext.image.types import ParameterGroup
from pcs_ext.threed.body_template import body_distance
from pcs_ext.threed.fields import AbstractField, Along, Bounds, Queried

Opacity = Literal["volsdf", "neus"]

_BETA = 0.08
"""World units: how thick the surface is at first."""
_THINNEST = 0.01


class SdfField(AbstractField):
    """Distances and colours on a dense grid; density is 1/(2 beta) at the surface, and the thickness beta is learned.

    volsdf: density is Psi_beta(-distance) / beta, the Laplace distribution's cumulative function (arXiv 2106.12052,
    eq. 2). neus: what passes through a stretch of a ray is Phi(distance at its end) / Phi(distance at its beginning)
    where that is below 1, Phi the logistic function of steepness 1/beta (arXiv 2106.10689, eq. 13; its s is 1/beta), so
    that a ray's weights are largest where it meets the surface, at whatever angle. Without a ray it is the density of
    one that meets the surface head on.

    Args:
        resolution: samples per side.
        bounds: the cube.
        radius: of the ball it starts as, world units; None: the capsule body.
        opacity: how distances become density.
    """

    def __init__(
        self,
        resolution: int = 64,
        bounds: Bounds | None = None,
        radius: float | None = None,
        opacity: Opacity = "volsdf",
    ) -> None:
        super().__init__()
        self.opacity = opacity
        self.bounds = bounds or Bounds()
        line = torch.linspace(-1, 1, resolution)
        z, y, x = torch.meshgrid(line, line, line, indexing="ij")
        points = torch.stack([x, y, z], -1).view(-1, 3) * self.bounds.half + torch.tensor(self.bounds.center)
        if radius is None:
            start = body_distance(points)
        else:
            start = (points - torch.tensor(self.bounds.center)).norm(dim=1) - radius
        self.distances = nn.Parameter(start.view(1, 1, *x.shape).clone())
        self.albedo_grid = nn.Parameter(torch.zeros(1, 3, *x.shape))
        self.thickness = nn.Parameter(torch.tensor(_BETA))

    @property
    def beta(self) -> Tensor:
        """Thickness of the surface, 0-d, world units."""
        return self.thickness.abs() + _THINNEST

    def query(self, points: Tensor) -> Queried:
        """See `AbstractField.query`."""
        local = self.bounds.normalized(points)
        values = _sampled(torch.cat([self.distances, self.albedo_grid], 1), local)
        return Queried(self._spread(values[0], local), torch.sigmoid(values[1:]).T)

    def query_along(self, points: Tensor, along: Along) -> Queried:
        """See `AbstractField.query_along`."""
        if self.opacity == "volsdf":
            return self.query(points)
        begin = self.distance(points - along.directions * along.before[:, None])
        end = self.distance(points + along.directions * along.after[:, None])
        # Minus the logarithm of what passes through: a quotient of logistic functions would be 0 / 0 deep inside.
        optical = functional.softplus(-end / self.beta) - functional.softplus(-begin / self.beta)
        width = (along.before + along.after).clamp_min(1e-9)
        colors = _sampled(self.albedo_grid, self.bounds.normalized(points))
        return Queried(optical.clamp_min(0) / width, torch.sigmoid(colors).T)

    def density(self, points: Tensor) -> Tensor:
        """See `AbstractField.density`."""
        local = self.bounds.normalized(points)
        return self._spread(_sampled(self.distances, local)[0], local)

    def _spread(self, distance: Tensor, local: Tensor) -> Tensor:
        """Density within the cube."""
        ratio = distance / self.beta
        if self.opacity == "neus":
            return torch.sigmoid(-ratio) / self.beta * (local.abs() <= 1).all(-1)
        share = torch.where(ratio > 0, 0.5 * torch.exp(-ratio.clamp_min(0)), 1 - 0.5 * torch.exp(ratio.clamp_max(0)))
        return share / self.beta * (local.abs() <= 1).all(-1)

    def distance(self, points: Tensor) -> Tensor:
        """Signed distances `n` at world points `n 3`, world units, negative inside; those of the walls outside."""
        return _sampled(self.distances, self.bounds.normalized(points))[0]

    def normals(self, points: Tensor, step: float = 0.02) -> Tensor:
        """See `AbstractField.normals`: the gradient of the distance, which is one deep inside as well."""
        offsets = torch.eye(3, device=points.device, dtype=points.dtype) * (step * self.bounds.half)
        both = torch.cat([points[:, None] + offsets, points[:, None] - offsets], 1)
        found = self.distance(both.reshape(-1, 3)).view(-1, 6)
        return functional.normalize(found[:, :3] - found[:, 3:], dim=-1, eps=1e-8)

    def slopes(self) -> Tensor:
        """Lengths of the distance's gradient in all cells, by differences of their corners: 1 in a true distance."""
        cell = 2 * self.bounds.half / (self.distances.shape[-1] - 1)
        grid = self.distances[0, 0]
        steps = [grid.diff(dim=axis)[_corner(axis)] for axis in range(3)]
        return (torch.stack(steps).square().sum(0) + 1e-12).sqrt() / cell

    def groups(self) -> list[ParameterGroup]:
        """Distance, colour and thickness."""
        return [
            ParameterGroup(name="distances", parameters=(self.distances,), learning_rate=0.003),
            ParameterGroup(name="albedo", parameters=(self.albedo_grid,), learning_rate=0.1),
            ParameterGroup(name="thickness", parameters=(self.thickness,), learning_rate=0.0003),
        ]


def _sampled(grid: Tensor, local: Tensor) -> Tensor:
    """Trilinear values `c n` of a grid `1 c d h w` at points `n 3` in [-1, 1]; the walls' values outside."""
    return functional.grid_sample(
        grid, local.view(1, 1, 1, -1, 3), mode="bilinear", padding_mode="border", align_corners=True
    ).view(grid.shape[1], -1)


def _corner(axis: int) -> tuple[slice, ...]:
    """The cells' own corner on the axes that no difference was taken along."""
    return tuple(slice(None) if other == axis else slice(None, -1) for other in range(3))
