"""From a field to a mesh that other programs open."""

import io
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pcs_ext.config_io import atomic_write_bytes, config
from pcs_ext.errors import ConfigError, InputError, ResourceError, UsageError
from pcs_ext.threed.fields import AbstractField
from pcs_ext.threed.glb_writing import glb_bytes
from pcs_ext.threed.gltf_reading import glb_for_trimesh, unreadable
from pcs_ext.threed.mesh_colors import joined, settle_colors
from pcs_ext.threed.obj_reading import obj_for_trimesh, obj_resolver
from pcs_ext.threed.obj_writing import write_textured_obj
from pcs_ext.threed.ply_reading import ply_for_trimesh
from pcs_ext.threed.surface_colors import surface_colors
from pcs_ext.threed.usdz import usdz_bytes

_CHUNK = 65_536
_EMPTY = 0.2
"""A field nowhere denser lets half of the light through: it holds nothing."""
_Y_UP = np.array([[1.0, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
"""World (z up, front at -y) to glTF (y up, front at +z)."""
_TURNED = ("glb", "obj", "usdz")
"""Formats with y up: glTF and USDZ say so, of an OBJ Blender, Maya and Unity take it for granted."""
FORMATS = ("glb", "obj", "ply")
"""Written and read."""
WRITTEN = (*FORMATS, "usdz")
_PREPARED = {"glb": glb_for_trimesh, "obj": obj_for_trimesh, "ply": ply_for_trimesh}
"""What trimesh would misread is put right before it reads."""
_FARTHEST = 1e6
"""Repetitions of a picture beyond which texture coordinates mean nothing."""
_DAMAGE = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    NotImplementedError,
    OSError,
    RecursionError,
    TypeError,
    ValueError,
    struct.error,
)
"""What trimesh raises on damaged files: it has no error class of its own, and its parsers fall over what they meet.
Only its own call is guarded: of ours these would be mistakes. Memory that runs out is not damage."""


@config
class MeshConfig:
    """How a surface is cut out of a field."""

    resolution: int = 128
    """Samples per side of the cube, 8 to 1024; memory and time grow with its cube."""
    threshold: float = 10.0
    """Density per world unit at the surface, above 0."""
    relative: float = 0.0
    """Where this share of the densest point is lower, the surface lies there instead, in [0, 1): distilled fields may
    stay soft. 0: never."""
    smallest_part: float = 0.01
    """Closed parts of less than this share of the largest part's volume are dropped as specks; 0 keeps all."""
    fill_cavities: bool = True
    """Drop closed surfaces that look inward: pictures say nothing of an object's inside, so fields come out hollow."""

    def __post_init__(self) -> None:
        if not 8 <= self.resolution <= 1024 or not 0 < self.threshold < math.inf:
            raise ConfigError(
                f"a mesh is cut out of 8 to 1024 samples per side at a density above 0, got {self.resolution} and "
                f"{self.threshold}."
            )
        if not 0 <= self.relative < 1 or not 0 <= self.smallest_part <= 1:
            raise ConfigError(
                f"expected relative in [0, 1) and smallest_part in [0, 1], got {self.relative}, {self.smallest_part}."
            )


def extract_mesh(field: AbstractField, config: MeshConfig | None = None) -> Any:
    """The surface where density crosses the threshold, as a `trimesh.Trimesh` with vertex colours.

    World axes (z up), outward winding (positive volume). Density counts as 0 just outside the cube, so the surface is
    closed even where the field reaches the cube's walls.

    Args:
        field: what is there.
        config: resolution, threshold, specks.

    Raises:
        UsageError: nothing exceeds the threshold.
        ResourceError: trimesh or scikit-image is not installed.
    """
    trimesh, measure = mesh_libraries()
    settings = config or MeshConfig()
    density = densities(field, settings.resolution)
    threshold = density_level(density, settings)
    # Log density varies about linearly across a learned surface, so vertices land better than on density itself.
    level = np.log(threshold + 1e-3)
    padded = np.pad(np.log(density + 1e-3), 1, constant_values=np.log(1e-3))
    corners, faces, _, _ = measure.marching_cubes(padded, level)
    step = 2 / (settings.resolution - 1)
    local = (corners - 1) * step - 1
    vertices = local * field.bounds.half + np.asarray(field.bounds.center)
    mesh = trimesh.Trimesh(vertices=vertices, faces=faces, process=True)
    if mesh.volume < 0:
        mesh.invert()
    mesh = _tidied(mesh, settings)
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=_vertex_colors(field, mesh))
    return mesh


def density_level(density: np.ndarray, settings: MeshConfig) -> float:
    """Density at the surface: the threshold, or the relative one where that is lower.

    Raises:
        UsageError: nothing exceeds it.
    """
    densest, threshold = float(density.max()), settings.threshold
    if settings.relative and densest > _EMPTY:
        threshold = min(threshold, settings.relative * densest)
    if densest <= threshold:
        raise UsageError(
            f"expected density above the threshold {threshold:.3g}, the field reaches {densest:.3g}. Lower the "
            "threshold or train longer."
        )
    return threshold


def write_mesh(mesh: Any, path: Path) -> None:
    """Write a mesh by the path's ending: GLB, USDZ or OBJ (turned to y up), or PLY (world axes, z up).

    A texture goes into the GLB or USDZ; beside an OBJ it is written as `NAME.png` with `NAME.mtl`.

    Raises:
        UsageError: another ending, or a texture in a PLY, which has colours at vertices alone.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in WRITTEN:
        raise UsageError(f"expected a file ending in {', '.join(WRITTEN)}, got {path.name!r}. Choose one of these.")
    textured = mesh.visual.kind == "texture"
    if textured and kind == "ply":
        raise UsageError(f"{path.name} would lose the texture: a ply has colours at vertices. Choose glb or obj.")
    # With the cache, in which a mesh that was laid out in a texture has its normals: worked out again, they would
    # stop at every seam.
    turned = mesh.copy(include_cache=True)
    if kind in _TURNED:
        turned.apply_transform(_Y_UP)
    if kind == "usdz":
        atomic_write_bytes(path, usdz_bytes(turned))
        return
    if textured and kind == "obj":
        write_textured_obj(turned, path)
        return
    data = glb_bytes(turned) if kind == "glb" else turned.export(file_type=kind)
    atomic_write_bytes(path, data.encode() if isinstance(data, str) else data)


def read_mesh(path: Path) -> Any:
    """A mesh in world axes (z up) from GLB, OBJ or PLY; the inverse of `write_mesh`.

    Materials of one colour become colours at the vertices, for which every format has a place; factors of a material
    with a picture go into the picture. Parts of a file become one, with one picture if any has one.

    Raises:
        InputError: missing, empty, of another format, needs an extension that is not read, or holds no sound mesh.
        ResourceError: trimesh is not installed.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in FORMATS or not path.is_file():
        raise InputError(f"{path}: expected an existing file ending in {', '.join(FORMATS)}. Check the path.")
    mesh = _joined(_scene(path, kind), path, kind)
    if kind in _TURNED:
        mesh.apply_transform(np.linalg.inv(_Y_UP))
    return mesh


def _scene(path: Path, kind: str) -> Any:
    """What trimesh reads, with the pictures and materials that lie beside the file."""
    trimesh, _ = mesh_libraries()
    beside = obj_resolver(path) if kind == "obj" else trimesh.resolvers.FilePathResolver(str(path))
    data = io.BytesIO(_PREPARED[kind](path))
    try:
        return trimesh.load_scene(data, file_type=kind, resolver=beside, process=False)
    except _DAMAGE as error:
        raise unreadable(path, error) from error


def _joined(scene: Any, path: Path, kind: str) -> Any:
    """All meshes of a scene as one, where they stand, with the file's normals: trimesh's own way loses them."""
    trimesh, _ = mesh_libraries()
    meshes = {name: entry for name, entry in scene.geometry.items() if isinstance(entry, trimesh.Trimesh)}
    if not meshes:
        raise unreadable(path, "it holds no mesh")
    for mesh in meshes.values():
        _check_sound(mesh, path)
    meshes = {name: mesh for name, mesh in meshes.items() if len(mesh.faces)}
    settle_colors(list(meshes.values()), kind)
    parts = []
    for node in scene.graph.nodes_geometry:
        place, name = scene.graph[node]
        if name in meshes:
            parts.append(meshes[name].copy(include_cache=True))
            parts[-1].apply_transform(place)
    if not parts:
        raise unreadable(path, "it holds no faces")
    return joined(parts, path)


def _check_sound(part: Any, path: Path) -> None:
    """Raises InputError on what trimesh's own properties would fall over."""
    corners, faces = np.asarray(part.vertices), np.asarray(part.faces)
    if corners.ndim != 2 or corners.shape[1] != 3:
        raise unreadable(path, f"its vertices have the shape {corners.shape}, expected three numbers each")
    uv = getattr(part.visual, "uv", None)
    if uv is not None and np.shape(uv) != (len(corners), 2):
        raise unreadable(path, f"it has {np.shape(uv)} texture coordinates for {len(corners)} vertices")
    if uv is not None and not (np.abs(np.asarray(uv)) < _FARTHEST).all():  # NaN is not less, either
        raise unreadable(path, f"it has texture coordinates that are not finite, or beyond {_FARTHEST:g}")
    if not np.isfinite(corners).all():
        count = int((~np.isfinite(corners)).any(1).sum())
        raise InputError(
            f"{path}: expected a mesh with finite coordinates, got {count} vertices without. Repair the mesh in a "
            "modelling program, or export it again."
        )
    if len(faces) and not 0 <= faces.min() <= faces.max() < len(corners):
        raise InputError(
            f"{path}: expected faces of the vertices 0 to {len(corners) - 1}, got {faces.min()} to {faces.max()}. The "
            "file is damaged; export it again."
        )


def mesh_libraries() -> tuple[Any, Any]:
    """trimesh, and scikit-image's `measure`.

    Raises:
        ResourceError: one of them is not installed.
    """
    try:
        import trimesh
        from skimage import measure
    except ImportError as error:
        raise ResourceError(
            f"meshes need trimesh and scikit-image ({error}). Run: pip install trimesh scikit-image"
        ) from None
    return trimesh, measure


@torch.no_grad()
def densities(field: AbstractField, resolution: int) -> np.ndarray:
    """Densities at the corners of a regular grid over the cube, indexed x, y, z."""
    line = torch.linspace(-1, 1, resolution) * (1 - 1e-6)
    grid = torch.stack(torch.meshgrid(line, line, line, indexing="ij"), -1).view(-1, 3)
    points = (grid * field.bounds.half + torch.tensor(field.bounds.center)).to(field.device)
    density = torch.cat([field.density(chunk).cpu() for chunk in points.split(_CHUNK)])
    return density.view((resolution,) * 3).double().numpy()


def _vertex_colors(field: AbstractField, mesh: Any) -> np.ndarray:
    points, normals = (torch.from_numpy(np.array(part)).float() for part in (mesh.vertices, mesh.vertex_normals))
    points, normals = points.to(field.device), normals.to(field.device)
    rgb = (surface_colors(field, points, normals).cpu().clamp(0, 1) * 255).round().byte().numpy()
    return np.concatenate([rgb, np.full((len(rgb), 1), 255, np.uint8)], 1)


def _tidied(mesh: Any, settings: MeshConfig) -> Any:
    parts = mesh.split(only_watertight=False)
    if len(parts) < 2:
        return mesh
    volumes = np.array([part.volume for part in parts])
    enough = np.abs(volumes) >= settings.smallest_part * volumes.max()
    if settings.fill_cavities:
        enough &= volumes > 0
    return mesh_libraries()[0].util.concatenate([part for part, kept in zip(parts, enough, strict=True) if kept])
