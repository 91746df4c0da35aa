"""A user's mesh, set in the middle of the cameras' world while it is painted."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcs_ext.errors import InputError
from pcs_ext.threed.fields import Bounds
from pcs_ext.threed.mesh import read_mesh
from pcs_ext.threed.surface import SurfaceMesh

_RADIUS = 1.1 / 1.5
"""Of the ball that holds the mesh while it is painted, as a share of the cube's half side: it fills the recipes'
views."""


@dataclasses.dataclass(frozen=True)
class Placed:
    """A user's mesh, and where it stands while it is painted."""

    mesh: Any
    """As it was read, wound outwards."""
    surface: SurfaceMesh
    """In the cameras' world."""
    middle: Tensor
    """`3`, of the mesh as it was read."""
    scale: float
    """World units per unit of the mesh."""
    bounds: Bounds
    """The cube in whose middle it stands."""

    def inside(self, points: Tensor) -> Tensor:
        """Points `n 3` of the mesh as it was read, in the cameras' world."""
        return (points - self.middle.to(points)) * self.scale + points.new_tensor(self.bounds.center)


def place_mesh(path: Path, bounds: Bounds | None = None) -> Placed:
    """Read a mesh and set it in the middle of the cameras' world; its front is where glTF and the recipes have it.

    Args:
        path: .glb, .obj or .ply.
        bounds: the cube it is set in; None: the default one.

    Raises:
        InputError: no faces, or coordinates that are not finite or all the same.
    """
    mesh = read_mesh(path)
    corners = np.asarray(mesh.vertices, np.float64)
    if not len(mesh.faces) or not np.isfinite(corners).all():
        raise InputError(f"{path}: expected a mesh with faces and finite coordinates, got {len(mesh.faces)} faces.")
    if mesh.is_watertight and mesh.volume < 0:
        mesh.invert()
    used = corners[np.unique(mesh.faces)]
    middle = (used.min(0) + used.max(0)) / 2
    radius = float(np.linalg.norm(used - middle, axis=1).max())
    if radius == 0:
        raise InputError(f"{path}: all corners lie in one point; expected a mesh with an extent.")
    cube, nothing = bounds or Bounds(), SurfaceMesh(torch.zeros(0, 3), torch.zeros(0, 3))
    placed = Placed(mesh, nothing, torch.from_numpy(middle), _RADIUS * cube.half / radius, cube)
    vertices = placed.inside(torch.from_numpy(corners)).float()
    return dataclasses.replace(placed, surface=SurfaceMesh(vertices, torch.from_numpy(np.array(mesh.faces)).long()))
