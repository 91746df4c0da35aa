"""A figure: a mesh in the pose of the capsule body, and the skin that ties it to the bones."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pcs_ext.errors import InputError
from pcs_ext.threed.avatar.skeleton import Bones
from pcs_ext.threed.avatar.skinning import skin_weights, skinned
from pcs_ext.threed.mesh import MeshConfig, extract_mesh, read_mesh
from pcs_ext.threed.sdf_field import SdfField

BODY = ((-0.640, -0.260, -0.011), (0.640, 0.186, 2.010))
"""Corners of the box around the standing capsule body, world units."""
_AS_IT_STANDS = 0.03
"""World units by which a figure's box may miss the body's and still be it: a cell of the grid that was cut out of."""


@dataclasses.dataclass(frozen=True)
class Figure:
    """A mesh that stands as the capsule body stands."""

    mesh: Any
    """`trimesh.Trimesh` in world axes, with colours or a texture."""
    weights: Tensor
    """`v j`, of its vertices."""

    @staticmethod
    def of(mesh: Any) -> "Figure":
        """A mesh that stands where the body stands, tied to its bones."""
        return Figure(mesh, skin_weights(torch.from_numpy(np.array(mesh.vertices)).float()))

    @torch.no_grad()
    def posed(self, bones: Bones) -> Any:
        """The mesh in the pose of one body: vertices by linear blending, normals turned with them."""
        vertices = skinned(torch.from_numpy(np.array(self.mesh.vertices)).float(), self.weights, bones)[0]
        normals = torch.from_numpy(np.array(self.mesh.vertex_normals)).float()
        turned = torch.einsum("nj,jab,nb->na", self.weights, bones.rotations[0], normals)
        found = self.mesh.copy()
        found.vertices = vertices.double().numpy()
        found.vertex_normals = functional.normalize(turned, dim=-1, eps=1e-8).double().numpy()
        return found


def capsule_body(resolution: int) -> Any:
    """The standing capsule body as a grey mesh, cut out of `resolution` samples per side."""
    field = SdfField(resolution, radius=None)
    return extract_mesh(field, MeshConfig(resolution=resolution, threshold=1000.0, relative=0.5))


def standing(path: Path) -> Figure:
    """A user's mesh as a figure: made as tall as the capsule body, and set where that stands.

    It must stand as the capsule body stands: upright, facing -y (+z in a GLB), arms held a little away from the trunk.
    What stands there already, as a figure that was painted on that body, stays as it is.

    Raises:
        InputError: no faces, or a mesh that is flat or lies down.
    """
    mesh = read_mesh(path)
    if not len(mesh.faces) or not np.isfinite(mesh.vertices).all():
        raise InputError(f"{path}: expected a mesh with faces and finite coordinates, got {len(mesh.faces)} faces.")
    low, high = np.asarray(mesh.bounds)
    size = high - low
    if size[2] <= 0 or size[2] < 0.9 * size.max():
        raise InputError(
            f"{path}: expected a figure that stands upright, got one {size[0]:.3g} wide, {size[1]:.3g} deep and "
            f"{size[2]:.3g} tall. Turn it so that its head is up (+y in a GLB or OBJ, +z in a PLY)."
        )
    body = np.asarray(BODY)
    if np.abs(np.asarray([low, high]) - body).max() > _AS_IT_STANDS:
        feet, ground = ((box.mean(0)[0], box.mean(0)[1], box[0, 2]) for box in (np.asarray([low, high]), body))
        scale = (body[1, 2] - body[0, 2]) / size[2]
        place = np.diag([scale, scale, scale, 1.0])
        place[:3, 3] = np.asarray(ground) - scale * np.asarray(feet)
        # Not by new vertices: those would take the file's normals away.
        mesh.apply_transform(place)
    return Figure.of(mesh)
