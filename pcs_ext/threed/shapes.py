"""What a job makes, a field or a surface, behind one set of functions: load, see, cut its mesh, ask its colours."""

import dataclasses
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.threed.cameras import Cameras, ring
from pcs_ext.threed.edited_splats import load_edited
from pcs_ext.threed.field_config import load_field
from pcs_ext.threed.fields import AbstractField
from pcs_ext.threed.lighting import Lit
from pcs_ext.threed.mesh import MeshConfig, extract_mesh
from pcs_ext.threed.render import RenderConfig, render_views
from pcs_ext.threed.splat_render import render_splats
from pcs_ext.threed.splats import AbstractSplats
from pcs_ext.threed.surface import TetSurface, load_surface, surface_to_trimesh
from pcs_ext.threed.surface_colors import surface_colors
from pcs_ext.threed.surface_render import render_surface
from pcs_ext.threed.texture import Painter
from pcs_ext.threed.turntable import contact_sheet, sheet

Shape: TypeAlias = AbstractField | TetSurface
_AMBIENT = 0.65
"""As in the pictures of mesh files."""


def load_shape(folder: Path) -> Shape:
    """What `save_field`, `save_edited` or `save_surface` wrote.

    Raises:
        InputError: a file is missing or damaged.
    """
    if (folder / "surface.json").is_file():
        return load_surface(folder)
    return load_edited(folder) if (folder / "edited.json").is_file() else load_field(folder)


def cut_mesh(shape: Shape, settings: MeshConfig) -> Any:
    """The mesh of a shape with vertex colours; a surface has its own triangles and does not read the settings.

    Raises:
        UsageError: nothing is there.
    """
    return surface_to_trimesh(shape) if isinstance(shape, TetSurface) else extract_mesh(shape, settings)


def painter(shape: Shape) -> Painter:
    """The colours of a shape's surface."""
    if isinstance(shape, TetSurface):
        return lambda places, normals: shape.query(places).albedo
    return lambda places, normals: surface_colors(shape, places, normals)


def recut(settings: MeshConfig, shape: Shape, changes: dict[str, Any]) -> MeshConfig:
    """The settings of a cut with the changes that were asked for (None: not), if the shape can be cut anew.

    Raises:
        UsageError: a surface was to be cut otherwise.
    """
    wanted = {name: value for name, value in changes.items() if value is not None}
    if wanted and isinstance(shape, TetSurface):
        raise UsageError(f"a refined surface has its own triangles; leave out --{', --'.join(wanted)}.")
    return dataclasses.replace(settings, **wanted)


@torch.no_grad()
def shape_views(shape: Shape, cameras: Cameras, side: int, *, background: float = 1.0, samples: int = 128) -> Tensor:
    """Pictures `b 3 h w` in [0, 1], on the CPU: a field by volume rendering, splats composited, a surface softly lit
    from the camera."""
    if isinstance(shape, TetSurface):
        behind = torch.full((len(cameras), 3), background)
        lit = Lit(shading="lambertian", light=cameras.positions, background=behind)
        return render_surface(shape, cameras, side, lit, ambient=_AMBIENT).rgb.clamp(0, 1).cpu()
    if isinstance(shape, AbstractSplats):
        return render_splats(shape.cloud(), cameras, side, side, background=background).rgb.cpu()
    return render_views(shape, cameras, side, side, RenderConfig(samples=samples), background=background).rgb


def preview_sheet(shape: Shape, *, side: int, samples: int = 64, views: int = 8) -> bytes:
    """A shape from all around as a PNG; under a field's colours its opacity."""
    if isinstance(shape, (TetSurface, AbstractSplats)):
        return sheet(shape_views(shape, ring(views, target=shape.bounds.center), side), columns=views)
    return contact_sheet(shape, side=side, samples=samples, views=views)
