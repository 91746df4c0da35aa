"""`3d export` and `3d render`: what a job left, or a mesh file, as other files."""

from pathlib import Path
from typing import Any, Literal

import numpy as np

from pcs_ext.config_io import atomic_write_bytes
from pcs_ext.errors import InputError, UsageError
from pcs_ext.threed.cameras import Cameras, ring
from pcs_ext.threed.mesh import WRITTEN, MeshConfig, mesh_libraries, read_mesh, write_mesh
from pcs_ext.threed.mesh_views import colors_at_vertices, render_mesh
from pcs_ext.threed.outputs import Outputs, check_ending, check_files, check_free, outputs_for, outputs_of
from pcs_ext.threed.shapes import Shape, cut_mesh, painter, recut, shape_views
from pcs_ext.threed.splat_ply import mesh_splat_bytes, splat_bytes
from pcs_ext.threed.splats import AbstractSplats
from pcs_ext.threed.texture import TextureConfig, bake_texture, xatlas_library
from pcs_ext.threed.turntable import KINDS, check_rate, sheet, write_turntable
from pcs_ext.threed.viewer import write_viewer
from pcs_ext.threed.work import finished_shape

Colors = Literal["auto", "vertex", "grid", "xatlas"]
"""Where colours go: to the vertices, or into a texture of one of `TextureConfig`'s layouts."""
_SHEET_COLUMNS = 4


def finished_mesh(shape: Shape, settings: MeshConfig, colors: Colors, texture_size: int | None = None) -> Any:
    """A shape's mesh with its colours.

    Raises:
        UsageError: nothing exceeds the threshold.
        ConfigError: the texture is too small.
        ResourceError: a library is missing.
    """
    mesh = cut_mesh(shape, settings)
    if colors == "vertex":
        return mesh
    return bake_texture(mesh, painter(shape), TextureConfig(size=texture_size, layout=colors))


def colors_for(output: Path, wanted: Colors) -> Colors:
    """auto: a texture where the format holds one. Vertices for PLY.

    Raises:
        UsageError: a texture in a PLY.
    """
    ply = output.suffix.lower() == ".ply"
    if ply and wanted not in ("auto", "vertex"):
        raise UsageError(f"{output.name} would lose the texture: a ply has colours at vertices. Choose glb or obj.")
    return "vertex" if ply else wanted


def check_tools(colors: Colors) -> None:
    """See, before long work, that what cuts a mesh and lays it out in a texture is installed.

    Raises:
        ResourceError: it is not.
    """
    mesh_libraries()
    if colors == "xatlas":
        xatlas_library()


def export_3d(
    source: Path,
    output: Path,
    *,
    colors: Colors = "auto",
    texture_size: int | None = None,
    resolution: int | None = None,
    threshold: float | None = None,
    splats: bool = False,
    viewer: bool = True,
    overwrite: bool = False,
) -> list[Path]:
    """Cut the mesh out of a job's field once more, or write a mesh file in another format.

    Args:
        source: OUTPUT.work of `3d make`, or a GLB, OBJ or PLY.
        output: ends in .glb, .obj, .ply or .usdz.
        colors: of a field's mesh; a file's mesh keeps its own (textures become vertex colours in a PLY).
        texture_size: texels per side; None: enough for the mesh.
        resolution: of the cut; None takes the recipe's.
        threshold: density at the surface; None takes the recipe's.
        splats: write a PLY of Gaussian splats instead of a mesh: those of an edited scene, else one per face.
        viewer: write a page beside a GLB.
        overwrite: replace what is there, pictures and pages beside the output included; never what the source needs.

    Returns:
        What was written, the mesh first.

    Raises:
        UsageError, ConfigError: settings that do not fit each other or the source, or files in the output's way.
        InputError: a source that cannot be read.
    """
    check_ending(output, ("ply",) if splats else WRITTEN)
    if splats and colors not in ("auto", "vertex"):
        raise UsageError("splats have one colour each, no texture; leave --colors out, or pass --colors vertex.")
    if source.is_dir():
        textured = colors_for(output, colors) != "vertex"
        check_files(outputs_of(output, viewer=viewer, textured=textured).files, source, overwrite)
        shape, result = finished_shape(source)
        if splats and isinstance(shape, AbstractSplats):
            return _write_splats(shape, output, colors, (texture_size, resolution, threshold))
        settings = recut(result.mesh, shape, {"resolution": resolution, "threshold": threshold})
        wanted = colors_for(output, colors)
        if wanted == "vertex" and texture_size is not None:
            raise UsageError(
                f"a texture size of {texture_size} has no meaning with colours at vertices; leave --texture-size out, "
                "or write a .glb, .obj or .usdz with --colors grid or xatlas."
            )
        mesh = finished_mesh(shape, settings, wanted, texture_size)
    else:
        if colors != "auto" or any(value is not None for value in (texture_size, resolution, threshold)):
            raise UsageError(
                f"{source} is a file: its mesh keeps its colours and shape. Give the folder OUTPUT.work of `3d make` "
                "to choose colours, texture size, resolution or threshold."
            )
        mesh = read_mesh(source)
        if output.suffix.lower() == ".ply" and mesh.visual.kind == "texture":
            _to_vertex_colors(mesh)
    outputs = outputs_for(mesh, output, viewer=viewer)
    check_files([output] if splats else outputs.files, source, overwrite)
    if splats and mesh.visual.kind == "texture":
        raise UsageError("splats have one colour each, no texture; leave --colors out, or pass --colors vertex.")
    if splats:
        atomic_write_bytes(output, mesh_splat_bytes(mesh))
        return [output]
    return write_with_page(mesh, outputs)


def _to_vertex_colors(mesh: Any) -> None:
    """Replace a mesh's picture by its colours at the vertices."""
    from trimesh.visual import ColorVisuals

    mesh.visual = ColorVisuals(mesh, vertex_colors=colors_at_vertices(mesh))


def _write_splats(splats: AbstractSplats, output: Path, colors: str, cut: tuple[float | None, ...]) -> list[Path]:
    """Splats as they were learned.

    Raises:
        UsageError: settings of a mesh were given.
    """
    if colors not in ("auto", "vertex") or any(value is not None for value in cut):
        raise UsageError(
            "this job's splats are written as they were learned; leave out --colors, --texture-size, --resolution and "
            "--threshold."
        )
    atomic_write_bytes(output, splat_bytes(splats))
    return [output]


def write_with_page(mesh: Any, outputs: Outputs) -> list[Path]:
    """Write a mesh and, where wanted, the page that shows it; all files there are now."""
    write_mesh(mesh, outputs.mesh)
    if outputs.page is not None:
        write_viewer(outputs.mesh, outputs.page)
    return [*outputs.files]


def render_3d(
    source: Path,
    output: Path,
    *,
    frames: int = 60,
    side: int = 256,
    elevation: float = 15.0,
    frames_per_second: float = 20.0,
    background: float = 1.0,
    overwrite: bool = False,
) -> None:
    """A turn around a job's field (volume rendered) or a mesh file (rasterised).

    Args:
        source: OUTPUT.work of `3d make`, or a GLB, OBJ or PLY.
        output: .mp4, .webp or .gif; .png for a sheet of all views.
        frames: views, at least 1.
        side: of a view, pixels.
        elevation: degrees above the horizon.
        frames_per_second: of an animation.
        background: grey behind the object, in [0, 1].
        overwrite: replace what is there.

    Raises:
        UsageError: settings out of range.
        InputError: a source that cannot be read.
    """
    check_free(output, (*KINDS, "png"), overwrite)
    if frames < 1 or not 16 <= side <= 2048 or not 0 <= background <= 1 or not -90 <= elevation <= 90:
        raise UsageError(
            "expected at least 1 frame of 16 to 2048 pixels, a background in [0, 1] and an elevation in [-90, 90], "
            f"got {frames}, {side}, {background}, {elevation}."
        )
    check_rate(frames_per_second)
    if source.is_dir():
        shape, _ = finished_shape(source)
        cameras = ring(frames, elevation=elevation, target=shape.bounds.center)
        seen = shape_views(shape, cameras, side, background=background)
    else:
        mesh = read_mesh(source)
        seen = render_mesh(mesh, _around(mesh, frames, elevation, source), side, side, background=background)
    if output.suffix.lower() == ".png":
        atomic_write_bytes(output, sheet(seen, columns=min(frames, _SHEET_COLUMNS)))
    else:
        write_turntable(output, seen, frames_per_second)


def _around(mesh: Any, frames: int, elevation: float, source: Path) -> Cameras:
    """A ring that just holds the mesh, wherever and however large it is."""
    low, high = np.asarray(mesh.bounds)
    middle, radius = (low + high) / 2, float(np.linalg.norm(high - low)) / 2
    if radius == 0:
        raise InputError(f"{source}: all corners lie in one point; expected a mesh with an extent.")
    distance = 1.05 * radius / np.sin(np.radians(16.0))
    return ring(frames, elevation=elevation, distance=float(distance), fov=32.0, target=tuple(middle.tolist()))
