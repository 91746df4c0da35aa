"""Five landmarks of every toy, as a detector gives those of a face: what InstantID is led by.

In the places of eyes, nose and corners of the mouth stand two sides of the top of the head, a point in front of the
face, and two sides of the neck. Every class has them, and they tell where the toy stands, how large, and how it is
turned: from behind, left and right have changed places.
"""

import torch
from torch import Tensor

from pcs_ext.toybox.world.assembly import pose
from pcs_ext.toybox.world.build import anchors_of
from pcs_ext.toybox.world.camera import camera_table, project
from pcs_ext.toybox.world.parts import Vector, apply
from pcs_ext.toybox.world.scene import Scene, SceneObject


def landmarks(scene: Scene) -> Tensor:
    """Points of all toys of a still, `objects*5 2`: x and y in shares of a square picture, which may lie outside.

    Points that something hides are told as if nothing did.

    Args:
        scene: of a perspective camera.
    """
    points = torch.tensor([point for toy in scene.objects for point in _points(toy)], dtype=torch.float32)
    table = camera_table([scene.camera], torch.device("cpu"))
    return project(points, table, 1, 1, False)[0]


def _points(toy: SceneObject) -> list[Vector]:
    """In the world. A toy faces -y and has its left at +x, which is on the right of who looks at its front."""
    anchors = anchors_of(toy)
    (x, y, z, r), (nx, ny, nz, rx, ry) = anchors.head, anchors.neck
    front = min(y - r, ny - ry)
    own = [(x - r, y, z), (x + r, y, z), ((x + nx) / 2, front, (z + nz) / 2), (nx - rx, ny, nz), (nx + rx, ny, nz)]
    rotation, translation = pose(toy)
    turned = [apply(rotation, point) for point in own]
    return [(a + translation[0], b + translation[1], c + translation[2]) for a, b, c in turned]
