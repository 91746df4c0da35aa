"""Pictures of Gaussian splats: projected to ellipses, sorted by depth, composited tile by tile, in plain torch.

Kerbl et al. 2023 (arXiv 2308.04079), sec. 4 and 6; the projection is that of Zwicker et al. 2001 (EWA splatting). A
splat narrower than a pixel is widened to one and made as much fainter, as in Mip-Splatting (Yu et al. 2024, arXiv
2311.16493, eq. 9), so that a cloud looks the same at every resolution; 3DGS itself only widens.
"""

import dataclasses
import math

import torch
from torch import Tensor

from pcs_ext.threed.cameras import Cameras
from pcs_ext.threed.rasterize import project
from pcs_ext.threed.render import Views
from pcs_ext.threed.splats import MOST_OPAQUE, Cloud

_SMALLEST_TILE, _TILES = 8, 16
"""Pixels per side of a tile, and tiles per side of larger pictures."""
_WIDENED = 0.3
"""Squared pixels added to every ellipse (3DGS)."""
_FAINTEST = 1 / 255
"""What hides less of a pixel is not drawn (3DGS)."""
"""Nothing hides more (3DGS)."""
_NEAR = 0.05
"""World units in front of the camera; nearer splats are not drawn."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ellipses:
    """`n` splats as one camera sees them, nearest first. Differentiable."""

    middles: Tensor
    """`n 2`: column and row, pixel centres at halves."""
    covariances: Tensor
    """`n 2 2`: squared pixels."""
    opacities: Tensor
    """`n`."""
    colors: Tensor
    """`n 3`."""
    depths: Tensor
    """`n`: along the optical axis, world units."""


def render_splats(
    cloud: Cloud, cameras: Cameras, height: int, width: int, *, background: Tensor | float = 1.0
) -> Views:
    """Pictures of a cloud, on its device, without normals. Differentiable in all of the cloud.

    Args:
        cloud: what is there.
        cameras: `b`.
        height, width: of the pictures.
        background: what lies behind, in [0, 1]: a number, `3`, or `b 3`.
    """
    behind = torch.as_tensor(background).to(cloud.places).expand(len(cameras), 3)
    seen = [_composited(ellipses(cloud, cameras, index, height, width), height, width) for index in range(len(cameras))]
    summed = torch.stack(seen)  # b h w (3 colours, opacity, depth)
    opacity = summed[..., 3]
    rgb = summed[..., :3] + (1 - opacity)[..., None] * behind[:, None, None]
    depth = summed[..., 4] / opacity.clamp_min(1e-6)
    return Views(rgb=rgb.permute(0, 3, 1, 2), opacity=opacity, depth=depth, normals=None)


def ellipses(cloud: Cloud, cameras: Cameras, index: int, height: int, width: int) -> Ellipses:
    """What one of the cameras sees of a cloud, nearest first; what is behind it is left out."""
    depths = project(cameras, index, cloud.places, height, width)[:, 2].detach()
    order = depths.argsort(stable=True)
    cloud = cloud[order[depths[order] > _NEAR]]
    places = project(cameras, index, cloud.places, height, width)
    slopes = _slopes(cameras, index, cloud.places, height)
    exact = slopes @ cloud.covariances @ slopes.mT
    wide = exact + _WIDENED * torch.eye(2, dtype=exact.dtype, device=exact.device)
    fainter = (torch.det(exact).clamp_min(1e-12) / torch.det(wide)).sqrt()
    return Ellipses(
        middles=places[:, :2],
        covariances=wide,
        opacities=cloud.opacities * fainter,
        colors=cloud.colors,
        depths=places[:, 2],
    )


def _slopes(cameras: Cameras, index: int, places: Tensor, height: int) -> Tensor:
    """How column and row change with world x, y and z at `n 3` places, `n 2 3` (EWA splatting, eq. 29)."""
    matrix = cameras.camera_to_world[index].to(places)
    x, y, z = ((places - matrix[:3, 3]) @ matrix[:3, :3]).unbind(-1)
    focal = height / 2 / math.tan(math.radians(float(cameras.fov[index])) / 2)
    depth, nothing = -z, torch.zeros_like(z)
    column = torch.stack([focal / depth, nothing, focal * x / depth**2], -1)
    row = torch.stack([nothing, -focal / depth, -focal * y / depth**2], -1)
    return torch.stack([column, row], -2) @ matrix[:3, :3].T


def _composited(seen: Ellipses, height: int, width: int) -> Tensor:
    """`height width 5`: colour, opacity and opacity times depth over black."""
    values = torch.cat([seen.colors, torch.ones_like(seen.depths)[:, None], seen.depths[:, None]], 1)
    # As far as a splat is drawn at all, so that tiles leave out nothing that a pixel would show.
    reach = (2 * torch.log(seen.opacities.detach() / _FAINTEST).clamp_min(0)).sqrt()[:, None]
    reach = reach * seen.covariances.detach().diagonal(dim1=1, dim2=2).sqrt()
    low, high = seen.middles.detach() - reach, seen.middles.detach() + reach
    drawn = seen.opacities.detach() > _FAINTEST
    precision = torch.linalg.inv(seen.covariances)
    side, rows = max(_SMALLEST_TILE, -(-max(height, width) // _TILES)), []
    for top in range(0, height, side):
        bottom = min(top + side, height)
        band = (drawn & (low[:, 1] < bottom) & (high[:, 1] > top)).nonzero()[:, 0]
        row = []
        for left in range(0, width, side):
            right = min(left + side, width)
            near = band[(low[band, 0] < right) & (high[band, 0] > left)]
            row.append(_tile(seen, precision, values, near, (top, bottom, left, right)))
        rows.append(torch.cat(row, 1))
    return torch.cat(rows, 0)


def _tile(seen: Ellipses, precision: Tensor, values: Tensor, near: Tensor, box: tuple[int, int, int, int]) -> Tensor:
    """Sums of values, weighted by what reaches the eye, at the pixels of a tile: `h w 5`."""
    top, bottom, left, right = box
    if not len(near):
        return values.new_zeros(bottom - top, right - left, values.shape[1])
    row, column = (
        torch.arange(*span, dtype=values.dtype, device=values.device) + 0.5 for span in ((top, bottom), (left, right))
    )
    y, x = torch.meshgrid(row, column, indexing="ij")
    dx, dy = x.reshape(-1, 1) - seen.middles[near, 0], y.reshape(-1, 1) - seen.middles[near, 1]
    (a, b), (_, d) = (line.unbind(-1) for line in precision[near].unbind(-2))
    shape = torch.exp(-0.5 * (a * dx * dx + d * dy * dy) - b * dx * dy)
    alpha = (seen.opacities[near] * shape).clamp_max(MOST_OPAQUE)
    alpha = torch.where(alpha > _FAINTEST, alpha, 0.0)
    hidden = -torch.log1p(-alpha)
    weights = torch.exp(hidden - hidden.cumsum(-1)) * alpha
    return (weights @ values[near]).view(bottom - top, right - left, -1)
