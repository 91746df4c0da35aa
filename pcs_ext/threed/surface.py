"""A closed surface that trains: signed distances and shifts at the corners of tetrahedra, materials around it.

Magic3D's second stage (Lin et al. 2023, arXiv 2211.10440, sec. 4) on the representation of DMTet (arXiv 2111.04276).
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.types import ParameterGroup
from pcs_ext.threed.fields import AbstractField, Bounds
from pcs_ext.threed.materials import Material, MaterialConfig, MaterialField
from pcs_ext.threed.mesh import MeshConfig, densities, density_level
from pcs_ext.threed.stored import restored, store
from pcs_ext.threed.surface_colors import surface_colors
from pcs_ext.threed.tetrahedra import march, tet_grid

_SLIVER = 1e-3
"""Faces of less than this share of the usual area have no direction."""
_OUTSIDE = 1e-3
"""Least distance at the cube's walls, as a share of its half side: the surface is closed there."""


@config
class SurfaceConfig:
    """A surface before training."""

    cells: int = 64
    """Cubes per side, six tetrahedra each (Magic3D: 128)."""
    bounds: Bounds = Bounds()
    """The cube it lives in."""
    materials: MaterialConfig = MaterialConfig()
    """What it is made of."""
    distance_rate: float = 1e-3
    """Learning rate of the distances, in half sides of the cube (threestudio: 0.01 for all)."""
    shift_rate: float = 1e-2
    """Learning rate of the corners' shifts, before the tanh that keeps them below half a cell."""

    def __post_init__(self) -> None:
        if not 4 <= self.cells <= 256:
            raise ConfigError(f"a surface's grid has 4 to 256 cells per side, got {self.cells}.")


@dataclasses.dataclass(frozen=True)
class SurfaceMesh:
    """Triangles in the world, wound outwards."""

    vertices: Tensor
    """`v 3`, world units."""
    faces: Tensor
    """`f 3`."""

    def to(self, device: torch.device) -> "SurfaceMesh":
        """The same elsewhere."""
        return SurfaceMesh(self.vertices.to(device), self.faces.to(device))

    def vertex_normals(self) -> Tensor:
        """`v 3`, unit, weighted by the faces' areas. Differentiable.

        Where all faces are slivers the normal is straight up, without a graph: its gradient would swamp all others.
        """
        a, b, c = (self.vertices[self.faces[:, k]] for k in range(3))
        across = torch.linalg.cross(b - a, c - a)
        summed = torch.zeros_like(self.vertices).index_add(0, self.faces.reshape(-1), across.repeat_interleave(3, 0))
        length = summed.detach().norm(dim=-1, keepdim=True)
        up = summed.new_tensor([0.0, 0.0, 1.0])
        return functional.normalize(torch.where(length < _SLIVER * length.mean(), up, summed), dim=-1)


class TetSurface(nn.Module):
    """Where a signed distance is 0, with what it is made of. A fresh one is a ball of half the cube's size.

    Args:
        settings: grid and materials.
        seed: of hash materials.
    """

    def __init__(self, settings: SurfaceConfig, seed: int = 0) -> None:
        super().__init__()
        self.settings, self.bounds = settings, settings.bounds
        corners, _ = tet_grid(settings.cells)
        self.distances = nn.Parameter(corners.norm(dim=1) - 0.5)
        self.shifts = nn.Parameter(torch.zeros_like(corners))
        self.materials: MaterialField = settings.materials.build(settings.bounds, seed)

    @property
    def device(self) -> torch.device:
        """Where its tensors are, and its pictures are made."""
        return self.distances.device

    def mesh(self) -> SurfaceMesh:
        """The surface as it is now. Differentiable.

        Raises:
            UsageError: nothing is inside.
        """
        corners, tets = tet_grid(self.settings.cells, self.device)
        wall = (corners.abs() > 1 - 1e-6).any(1)
        distances = torch.where(wall, self.distances.clamp_min(_OUTSIDE), self.distances)
        # Below half a cell, as in DMTet, or tetrahedra turn inside out.
        moved = corners + torch.tanh(self.shifts) * (0.45 * 2 / self.settings.cells) * ~wall[:, None]
        vertices, faces = march(moved, distances, tets)
        if not len(faces):
            raise UsageError("the surface has vanished; lower distance_rate, or begin with a denser field.")
        return SurfaceMesh(vertices * self.bounds.half + vertices.new_tensor(self.bounds.center), faces)

    def query(self, points: Tensor) -> Material:
        """What is there, at world points `n 3`."""
        return self.materials.query(points)

    def groups(self) -> list[ParameterGroup]:
        """Distances, shifts, materials."""
        settings = self.settings
        shape = [
            ParameterGroup(name="distances", parameters=(self.distances,), learning_rate=settings.distance_rate),
            ParameterGroup(name="shifts", parameters=(self.shifts,), learning_rate=settings.shift_rate),
        ]
        return [*shape, *self.materials.groups()]


@torch.no_grad()
def start_from(surface: TetSurface, field: AbstractField, cut: MeshConfig) -> None:
    """Give a surface the shape and colours of a field, in place.

    The field's density is cut as for `extract_mesh`, specks and cavities are dropped, and the distance to what is left
    becomes the signed distance. Differs from Magic3D, which takes density minus threshold for it: a true distance moves
    alike everywhere.

    Raises:
        UsageError: nothing exceeds the threshold.
    """
    signed = _signed_distance(densities(field, surface.settings.cells + 1), cut)
    surface.distances.copy_(signed.reshape(-1) * (2 / surface.settings.cells))
    surface.shifts.zero_()
    mesh = surface.mesh()
    surface.materials.paint(mesh.vertices, surface_colors(field, mesh.vertices, mesh.vertex_normals()))


def _solid(inside: np.ndarray, cut: MeshConfig) -> np.ndarray:
    """The connected parts that are large enough, with their cavities filled."""
    from scipy import ndimage  # comes with scikit-image
    from skimage import measure

    labels = np.asarray(measure.label(inside, connectivity=1))
    sizes = np.bincount(labels.reshape(-1))
    sizes[0] = 0
    solid = (sizes >= max(cut.smallest_part * sizes.max(), 1))[labels]
    return np.asarray(ndimage.binary_fill_holes(solid), bool) if cut.fill_cavities else solid


def _signed_distance(density: np.ndarray, cut: MeshConfig) -> Tensor:
    """Distance to the surface in cells, below 0 inside: beside it from log density and its slope, else from corner to
    corner; smoothed over three corners."""
    from scipy import ndimage  # comes with scikit-image

    above = np.log(density + 1e-3) - np.log(density_level(density, cut) + 1e-3)
    solid = _solid(above > 0, cut)
    padded = np.pad(solid, 1)
    steps = np.asarray(ndimage.distance_transform_edt(~padded)) - np.asarray(ndimage.distance_transform_edt(padded))
    signed = steps[1:-1, 1:-1, 1:-1]
    slope = np.sqrt(sum(part**2 for part in np.gradient(above)))
    near = (np.abs(signed) <= 1) & ((above > 0) == solid)
    signed = np.where(near, np.clip(-above / np.maximum(slope, 1e-6), -1.0, 1.0), signed)
    smooth = functional.pad(torch.from_numpy(signed).float()[None, None], (1,) * 6, mode="replicate")
    return functional.avg_pool3d(smooth, 3, 1)[0, 0]


def surface_to_trimesh(surface: TetSurface) -> Any:
    """The surface as a `trimesh.Trimesh` with vertex colours, world axes, outward winding."""
    import trimesh
    from trimesh.visual import ColorVisuals

    with torch.no_grad():
        made = surface.mesh()
        albedo = surface.query(made.vertices).albedo
    colors = np.full((len(albedo), 4), 255, np.uint8)
    colors[:, :3] = (albedo.clamp(0, 1) * 255).round().byte().numpy()
    mesh = trimesh.Trimesh(made.vertices.double().numpy(), made.faces.numpy(), process=False)
    mesh.visual = ColorVisuals(mesh, vertex_colors=colors)
    return mesh


def save_surface(surface: TetSurface, folder: Path) -> None:
    """Write `surface.json` and `surface.safetensors`; the folder appears whole or not at all."""
    store(folder, "surface", surface, surface.settings)


def load_surface(folder: Path) -> TetSurface:
    """What `save_surface` wrote.

    Raises:
        InputError: a file is missing or damaged.
    """
    return restored(folder, "surface", SurfaceConfig, TetSurface)
