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

_RADIUS = 1.1
"""Of the ball that holds the mesh while it is painted, world units: it fills the recipes' views."""


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

    def inside(self, points: Tensor) -> Tensor:
        """Points `n 3` of the mesh as it was read, in the cameras' world."""
        return (points - self.middle.to(points)) * self.scale + points.new_tensor(Bounds().center)


def place_mesh(path: Path) -> Placed:
    """Read a mesh and set it in the middle of the cameras' world; its front is where glTF and the recipes have it.

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
    placed = Placed(mesh, SurfaceMesh(torch.zeros(0, 3), torch.zeros(0, 3)), torch.from_numpy(middle), _RADIUS / radius)
    vertices = placed.inside(torch.from_numpy(corners)).float()
    return dataclasses.replace(placed, surface=SurfaceMesh(vertices, torch.from_numpy(np.array(mesh.faces)).long()))
