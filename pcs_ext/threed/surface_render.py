"""Pictures of a surface with a graph back to its vertices and its materials."""

import dataclasses

import torch
from torch import Tensor
from torch.nn import functional

from pcs_ext.threed.cameras import Cameras
from pcs_ext.threed.lighting import Lit
from pcs_ext.threed.rasterize import Fragments, barycentric_at, project, rasterize
from pcs_ext.threed.render import shade
from pcs_ext.threed.soft_edges import Edges, mesh_edges, soften
from pcs_ext.threed.surface import SurfaceMesh, TetSurface


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurfaceViews:
    """Pictures of a surface from `b` cameras."""

    rgb: Tensor
    """`b 3 h w` in [0, 1] but for a little at outlines, over the background."""
    opacity: Tensor
    """`b h w`."""


@dataclasses.dataclass(frozen=True)
class SeenSurface:
    """What the covered pixels of one picture see: `k` of them."""

    covered: Tensor
    """`h w` bool."""
    places: Tensor
    """`k 3`, world units."""
    normals: Tensor
    """`k 3`, unit, turned to the camera."""
    depth: Tensor
    """`h w`: along the optical axis, infinite where nothing is; without a graph."""


def look_at(mesh: SurfaceMesh, normals: Tensor, points: Tensor, position: Tensor, size: tuple[int, int]) -> SeenSurface:
    """Which point of a mesh every pixel sees. Differentiable in the mesh's vertices, but for which triangle it is.

    Args:
        mesh: what is there.
        normals: `v 3`, of its vertices.
        points: `v 3`: its vertices as `project` gives them.
        position: `3`, of the camera.
        size: height and width of the picture.
    """
    seen = rasterize(points.detach(), mesh.faces, *size)
    seen = Fragments(face=seen.face, barycentric=barycentric_at(seen.face, points, mesh.faces))
    covered = seen.face >= 0
    places = seen.interpolate(mesh.vertices, mesh.faces)[covered]
    toward = functional.normalize(position - places, dim=-1)
    facing = functional.normalize(seen.interpolate(normals, mesh.faces)[covered], dim=-1, eps=1e-8)
    facing = torch.where((facing * toward).sum(-1, keepdim=True) < 0, -facing, facing)
    depth = seen.interpolate(points[:, 2:].detach(), mesh.faces)[..., 0]
    return SeenSurface(covered, places, facing, torch.where(covered, depth, torch.inf).detach())


def render_surface(
    surface: TetSurface, cameras: Cameras, side: int, lit: Lit, *, ambient: float = 0.1, supersampling: int = 2
) -> SurfaceViews:
    """Square pictures of a surface, on its device, blended at its outlines. Differentiable in shape and materials.

    Args:
        surface: what is there.
        cameras: `b`.
        side: of a picture, pixels.
        lit: shading, light and background of each view.
        ambient: share of light from everywhere, in [0, 1].
        supersampling: samples per pixel and axis.
    """
    mesh, cameras, lit = surface.mesh(), cameras.to(surface.device), lit.to(surface.device)
    edges, normals = mesh_edges(mesh.faces), mesh.vertex_normals()
    layers = [
        _view(surface, mesh, edges, normals, cameras, index, side * supersampling, lit, ambient)
        for index in range(len(cameras))
    ]
    pooled = functional.avg_pool2d(torch.stack(layers).permute(0, 3, 1, 2), supersampling)
    return SurfaceViews(rgb=pooled[:, :3], opacity=pooled[:, 3])


def _view(
    surface: TetSurface,
    mesh: SurfaceMesh,
    edges: Edges,
    normals: Tensor,
    cameras: Cameras,
    index: int,
    side: int,
    lit: Lit,
    ambient: float,
) -> Tensor:
    """Colour and opacity `h w 4` of one camera."""
    points = project(cameras, index, mesh.vertices, side, side)
    seen = look_at(mesh, normals, points, cameras.positions[index], (side, side))
    albedo = surface.query(seen.places).albedo
    color = shade(albedo, seen.normals, lit.light[index] - seen.places, lit.shading, ambient)
    background = torch.cat([lit.background[index].to(color), color.new_zeros(1)])
    layer = background.expand(side, side, 4).clone()
    layer[seen.covered] = torch.cat([color, color.new_ones(len(color), 1)], 1)
    return soften(layer, seen.depth, points, mesh.faces, edges)
