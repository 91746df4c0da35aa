"""Where every pixel's point goes between two moments of a scene: optical flow as truth, not as an estimate."""

import dataclasses

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.toybox.world.assembly import pose
from pcs_ext.toybox.world.camera import EQUIRECTANGULAR, camera_table, project, rays
from pcs_ext.toybox.world.motion import posed
from pcs_ext.toybox.world.render import Rendered, render
from pcs_ext.toybox.world.scene import Scene

_SKY = 1e5
"""The sky turns with the camera but does not move with it: its points are this far away."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flow:
    """Displacement of the points seen at the start."""

    displacement: Tensor
    """`2 h w`: x to the right and y down, in pixels; the point of pixel p is at p + displacement at the end."""
    visible: Tensor
    """`h w` bool: the point is in the picture and not covered at the end."""


def flow(scene: Scene, start: float, end: float, *, resolution: int = 64, device: str = "cpu") -> Flow:
    """Flow of a moving scene from one time to another, from object coordinates and the cameras.

    Args:
        scene: with a motion; its own time plays no role.
        start, end: times in [0, 1].
        resolution: height in pixels.
        device: where to compute and keep the result.
    """
    before, after = posed(scene.at(start)), posed(scene.at(end))
    shown = render([before, after], resolution=resolution, supersample=1, device=device, styled=False)
    points = _world_points(before, after, shown)
    height, width = shown.depth.shape[-2:]
    table = camera_table([after.camera], points.device)[0]
    pixels, depth = project(points, table, height, width, scene.camera.projection == EQUIRECTANGULAR)
    y, x = torch.meshgrid(*(torch.arange(n, device=points.device) + 0.5 for n in (height, width)), indexing="ij")
    displacement = torch.stack([pixels[..., 0] - x, pixels[..., 1] - y])
    if scene.camera.projection == EQUIRECTANGULAR:
        # The short way around the horizon.
        displacement[0] = torch.remainder(displacement[0] + width / 2, width) - width / 2
    return Flow(displacement=displacement, visible=_visible(pixels, depth, shown))


def _world_points(before: Scene, after: Scene, shown: Rendered) -> Tensor:
    """Where the points of the first picture's pixels are at the end, `h w 3`."""
    depth, ids = shown.depth[0], shown.object_ids[0]
    height, width = depth.shape
    round_view = before.camera.projection == EQUIRECTANGULAR
    table = camera_table([before.camera], depth.device)
    direction = torch.stack([d[0] for d in rays(table, height, width, round_view)], -1)
    along = torch.ones_like(depth) if round_view else (direction * table[0, 2, :3]).sum(-1)
    distance = torch.where(torch.isfinite(depth), depth / along, _SKY)
    points = table[0, 3, :3] + direction * distance[..., None]
    # Sky is at infinity: it is carried along with the camera and only turns.
    travel = camera_table([after.camera], depth.device)[0, 3, :3] - table[0, 3, :3]
    points = torch.where(torch.isfinite(depth)[..., None], points, points + travel)
    coordinates = shown.object_coordinates[0].permute(1, 2, 0)
    for number, toy in enumerate(after.objects):
        rotation, translation = (torch.tensor(value, device=depth.device) for value in pose(toy))
        moved = (coordinates[..., None, :] * rotation).sum(-1) + translation
        points = torch.where((ids == number)[..., None], moved, points)
    return points


def _visible(pixels: Tensor, depth: Tensor, shown: Rendered) -> Tensor:
    """A point is seen when its depth lies within the depths around the pixel it lands on, and its object is there."""
    height, width = shown.depth.shape[-2:]
    column, row = pixels[..., 0].floor(), pixels[..., 1].floor()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (depth > 0)
    index = row.clamp(0, height - 1).long() * width + column.clamp(0, width - 1).long()
    far = shown.depth[1].clamp(max=_SKY)[None, None]
    farthest = F.max_pool2d(far, 3, stride=1, padding=1).flatten()[index]
    nearest = -F.max_pool2d(-far, 3, stride=1, padding=1).flatten()[index]
    sky = ~torch.isfinite(shown.depth[0])
    reached = torch.where(sky, farthest >= _SKY, (depth > nearest * 0.99) & (depth < farthest * 1.01))
    return inside & reached & (shown.object_ids[1].flatten()[index] == shown.object_ids[0])
