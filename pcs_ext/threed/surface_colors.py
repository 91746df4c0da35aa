"""What colour a field's surface has: what is seen of it from outside, not what lies in one point."""

import torch
from torch import Tensor

from pcs_ext.threed.fields import AbstractField
from pcs_ext.threed.render import weights_of

_STEPS = 8
_DEPTH = 0.12
"""How far below the surface is looked, as a share of the cube's half side."""
_CHUNK = 32_768


@torch.no_grad()
def surface_colors(field: AbstractField, points: Tensor, normals: Tensor) -> Tensor:
    """Albedo `n 3` in [0, 1] that a viewer outside sees at surface points.

    Rays go inward along the normals and are summed up as in a picture, without what is in front of the surface. Where a
    field is hard this is the colour at the surface; where it is soft, most of the colour lies below.

    Args:
        field: what is there.
        points: on the surface, world units, `n 3`.
        normals: outward, unit, `n 3`.
    """
    step = _DEPTH * field.bounds.half / _STEPS
    depths = (torch.arange(_STEPS, device=points.device) + 0.5) * step
    colors = []
    for place, normal in zip(points.split(_CHUNK), normals.split(_CHUNK), strict=True):
        along = place[:, None] - depths[:, None] * normal[:, None]
        found = field.query(along.reshape(-1, 3))
        density = found.density.view(-1, _STEPS)
        weights = weights_of(density, torch.full_like(density, step)) + 1e-6
        albedo = found.albedo.view(-1, _STEPS, 3)
        colors.append((weights[..., None] * albedo).sum(1) / weights.sum(1, keepdim=True))
    return torch.cat(colors) if colors else points.new_zeros(0, 3)
