"""What a 3D object is measured by where the truth is known: its pictures, the views in them, outline and surface."""

import statistics
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.true_toys import TrueToy, carved_distances
from pcs_ext.image.evaluate import Judges
from pcs_ext.threed.cameras import Cameras
from pcs_ext.threed.field_fit import psnr
from pcs_ext.threed.fields import AbstractField, Bounds
from pcs_ext.threed.mesh_views import render_mesh
from pcs_ext.threed.rasterize import project, rasterize
from pcs_ext.threed.render import RenderConfig, render_views
from pcs_ext.threed.shapes import Shape, shape_views
from pcs_ext.threed.splats import AbstractSplats
from pcs_ext.toybox.world.captions import view_name

_UNSURE = 6.0
"""Degrees beside a border between two view words in which nobody is asked for the word: as in the oracle's training."""
_POINTS = 4000
HIGHER: dict[str, bool] = {
    "psnr": True,
    "likeness": True,
    "clip-likeness": True,
    "saturation-error": False,
    "janus-rate": False,
    "views-right": True,
    "class-right": True,
    "silhouette-iou": True,
    "chamfer": False,
    "views-asked": True,
    "identity": True,
}
"""Every measure, and whether more is better."""


@torch.no_grad()
def pictures(shape: Shape, cameras: Cameras, side: int) -> tuple[Tensor, Tensor]:
    """Pictures `b 3 h w` in [0, 1] over white, and opacity `b 1 h w`, as `3d render` draws them."""
    if isinstance(shape, AbstractField) and not isinstance(shape, AbstractSplats):
        seen = render_views(shape, cameras, side, side, RenderConfig(samples=64))
        return seen.rgb, seen.opacity[:, None]
    white, black = (shape_views(shape, cameras, side, background=grey) for grey in (1.0, 0.0))
    return white, (1 - (white - black).mean(1, keepdim=True)).clamp(0, 1)


@torch.no_grad()
def mesh_pictures(mesh: Any, cameras: Cameras, side: int) -> tuple[Tensor, Tensor]:
    """Likewise of a mesh with its own colours, softly lit."""
    white, black = (render_mesh(mesh, cameras, side, side, background=grey) for grey in (1.0, 0.0))
    return white, (1 - (white - black).mean(1, keepdim=True)).clamp(0, 1)


@torch.no_grad()
def look(images: Tensor, opacity: Tensor, truth: TrueToy, judges: Judges) -> dict[str, float]:
    """What pictures from the truth's cameras are like.

    `psnr` over white and `likeness` (the self-supervised encoder's, before the world's plain place) against the true
    picture from the same camera; `saturation-error` of what is covered; of the oracle's readings `janus-rate`, how
    often a view from behind (more than 90 degrees) is read as a front view though none is to be seen there,
    `views-right` and `class-right`.

    Args:
        images: `b 3 h w` in [0, 1], over white.
        opacity: `b 1 h w`.
        truth: of the toy that is meant.
        judges: all three.
    """
    assert judges.dino is not None
    assert judges.clip is not None
    assert judges.attributes is not None
    shown, real = (in_place(*pair, truth.scenery) for pair in ((images, opacity), (truth.images, truth.coverage)))
    read = judges.attributes(shown)
    found = {
        "psnr": psnr(images, truth.images),
        "saturation-error": abs(_saturation(images, opacity) - _saturation(truth.images, truth.coverage)),
        "class-right": statistics.fmean(entry["class"] == truth.name for entry in read),
        **view_readings([entry["view"] for entry in read], truth.cameras, truth.name),
    }
    for name, judge in (("likeness", judges.dino), ("clip-likeness", judges.clip)):
        found[name] = float((judge.encode_images(shown) * judge.encode_images(real)).sum(1).mean())
    return found


def in_place(images: Tensor, opacity: Tensor, scenery: Tensor) -> Tensor:
    """Pictures over white put before a place, `b 3 h w` in [-1, 1]."""
    return (images - (1 - opacity) + (1 - opacity) * scenery).clamp(0, 1) * 2 - 1


def view_readings(read: list[str], cameras: Cameras, class_name: str) -> dict[str, float]:
    """`janus-rate` and `views-right` of view words read of a toy of that class; cameras near a border between two words
    are left out."""
    behind, right = [], []
    for word, azimuth, elevation in zip(read, cameras.azimuth.tolist(), cameras.elevation.tolist(), strict=True):
        around = {view_name(azimuth + turn, elevation, class_name) for turn in (-_UNSURE, _UNSURE)}
        if len(around) == 1:
            right.append(word in around)
            if abs(azimuth) > 90:
                behind.append(word == "front view" and word not in around)
    return {"janus-rate": statistics.fmean(behind), "views-right": statistics.fmean(right)}


def _saturation(images: Tensor, opacity: Tensor) -> float:
    """Mean of (max - min) / max over what is covered, 0 where nothing is."""
    color = ((images - (1 - opacity)) / opacity.clamp_min(1e-3)).clamp(0, 1)
    most, least = color.amax(1, keepdim=True), color.amin(1, keepdim=True)
    return float(((most - least) / most.clamp_min(1e-3) * opacity).sum() / opacity.sum().clamp_min(1e-3))


@torch.no_grad()
def geometry(mesh: Any | None, truth: TrueToy) -> dict[str, float]:
    """`silhouette-iou` and `chamfer` (mean of both directions, world units, over the surfaces seen from the ring).

    Args:
        mesh: in world axes; None, when nothing could be cut out, counts as a point in the middle of the cube.
        truth: of the toy that is meant.
    """
    masks, points = torch.zeros_like(truth.masks), torch.tensor([Bounds().center])
    if mesh is not None:
        masks, points = _outline(mesh, truth.cameras, truth.masks.shape[1])
    union = (masks | truth.masks).sum()
    found, real = _some(points), _some(truth.points)
    distances = torch.cdist(found, real)
    return {
        "silhouette-iou": float((masks & truth.masks).sum() / union),
        "chamfer": float((distances.amin(0).mean() + distances.amin(1).mean()) / 2),
    }


def _outline(mesh: Any, cameras: Cameras, side: int) -> tuple[Tensor, Tensor]:
    vertices = torch.from_numpy(np.array(mesh.vertices)).float()
    faces = torch.from_numpy(np.array(mesh.faces)).long()
    masks, points = [], []
    for index in range(len(cameras)):
        seen = rasterize(project(cameras, index, vertices, side, side), faces, side, side)
        masks.append(seen.face >= 0)
        points.append(seen.interpolate(vertices, faces)[masks[-1]])
    return torch.stack(masks), torch.cat(points)


def _some(points: Tensor) -> Tensor:
    """Not more than so many, evenly from all."""
    return points if len(points) <= _POINTS else points[torch.linspace(0, len(points) - 1, _POINTS).long()]


def carved_mesh(truth: TrueToy, resolution: int = 72) -> Any:
    """The mesh of a toy: what no view sees through. Watertight, grey, in world axes.

    Args:
        truth: of the toy; the finer its pictures, the finer the mesh.
        resolution: samples per side of the cube.
    """
    import trimesh
    from skimage import measure

    bounds, outside = Bounds(), carved_distances(truth, resolution)
    padded = np.pad(-outside.numpy(), 1, constant_values=-1.0)
    corners, faces, _, _ = measure.marching_cubes(padded, 0.0)
    vertices = ((corners - 1) * (2 / (resolution - 1)) - 1) * bounds.half + np.asarray(bounds.center)
    mesh = trimesh.Trimesh(vertices=vertices, faces=faces, process=True)
    if mesh.volume < 0:
        mesh.invert()
    return mesh
