"""Colours and materials baked into textures: a mesh laid out in a square, every texel asked for what is there."""

import dataclasses
import importlib.util
import math
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, ResourceError
from pcs_ext.threed.rasterize import Fragments, rasterize

Painter: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""`(places n 3, outward unit normals n 3) -> n 3`, albedo in [0, 1], or `n 5`, then roughness and metalness."""
_MARGIN = 1.5
"""Texels of its own colours around a face of the grid: graphics cards look that far beyond an edge."""
_LEAST_CELL = 8
_CELL = 10
_CHART_FACE = 7


@config
class TextureConfig:
    """How a texture is baked."""

    size: int | None = None
    """Texels per side; None: a power of two that gives every face of a grid a cell of ten texels, or leaves 49 texels
    of all for a face of a chart and is at least 1024."""
    layout: Literal["auto", "grid", "xatlas"] = "auto"
    """xatlas: charts of many faces, which people can paint on; grid: every two faces share a square cell, needs
    nothing, has a seam at every edge; auto: xatlas where it is installed."""
    padding: int = 4
    """Texels around charts that repeat their colours, so that no seam shows."""

    def __post_init__(self) -> None:
        if not (self.size is None or 16 <= self.size <= 8192) or not 0 <= self.padding <= 64:
            raise ConfigError(
                f"expected a texture of 16 to 8192 texels and padding to 64, got {self.size}, {self.padding}."
            )


def bake_texture(mesh: Any, paint: Painter, config: TextureConfig | None = None) -> Any:
    """A copy of a mesh with texture coordinates and what a painter says of it: base colour, or that and a map of
    roughness (green) and metalness (blue), as glTF wants it.

    Vertices on seams are doubled, as every format wants it; faces keep their number and order.

    Args:
        mesh: `trimesh.Trimesh` in world axes.
        paint: gives the colours and materials.
        config: size and padding.

    Raises:
        ResourceError: xatlas is asked for and not installed.
        ConfigError: more faces than the grid has cells of eight texels.
    """
    import trimesh
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    settings = config or TextureConfig()
    layout = resolved(settings.layout)
    size = settings.size or fitting_size(len(mesh.faces), layout)
    made = grid_layout(mesh, size) if layout == "grid" else _xatlas_layout(mesh, size)
    vertices = np.asarray(mesh.vertices)[made.origin]
    normals = np.asarray(mesh.vertex_normals)[made.origin]
    image = _baked(paint, made, torch.from_numpy(vertices).float(), torch.from_numpy(normals).float(), settings.padding)
    color = Image.fromarray(image[..., :3].copy())
    rough: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 0.9}
    if image.shape[-1] == 5:
        packed = np.concatenate([np.zeros_like(image[..., :1]), image[..., 3:]], -1)
        rough = {
            "metallicRoughnessTexture": Image.fromarray(packed),
            "metallicFactor": 1.0,
            "roughnessFactor": 1.0,
        }
    material = PBRMaterial(baseColorTexture=color, **rough)
    visual = TextureVisuals(uv=made.uv, material=material)
    return trimesh.Trimesh(
        vertices=vertices, faces=made.faces, vertex_normals=normals, visual=visual, process=False, validate=False
    )


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh laid out in the unit square."""

    origin: np.ndarray
    """For every new vertex the one it copies, `n`."""
    faces: np.ndarray
    """`m 3` of new vertices, in the old order."""
    uv: np.ndarray
    """`n 2`, origin at the bottom left."""
    seen: Fragments
    """What the texels' centres lie on, first row at v = 1."""


def grid_layout(mesh: Any, size: int) -> Layout:
    """Two faces per cell of a square grid, each a right triangle with a texel of its own colours around it.

    Raises:
        ConfigError: the cells would be smaller than eight texels.
    """
    count = len(mesh.faces)
    check_room(count, size)
    cells = _cells_per_side(count)
    side = size // cells
    index = np.arange(count)
    corner = np.stack([index // 2 % cells, index // 2 // cells], -1)[:, None] * side
    near, far = _MARGIN, side - _MARGIN - 2.5
    lower = np.array([[near, near], [far, near], [near, far]])
    places = corner + np.stack([lower, side - lower])[index % 2]
    uv = places.reshape(-1, 2) / size
    uv[:, 1] = 1 - uv[:, 1]
    faces = np.arange(3 * count).reshape(-1, 3)
    return Layout(np.asarray(mesh.faces).reshape(-1), faces, uv, _cells(count, cells, side, size))


def check_room(count: int, size: int) -> None:
    """See that a grid of `size` texels per side has room for `count` faces.

    Raises:
        ConfigError: the cells would be smaller than eight texels.
    """
    least = _LEAST_CELL * _cells_per_side(count)
    if size < least:
        raise ConfigError(
            f"{count} faces need a texture of at least {least} texels per side, got {size}. Raise the size, or lower "
            "the mesh's resolution."
        )


def resolved(layout: Literal["auto", "grid", "xatlas"]) -> Literal["grid", "xatlas"]:
    """What `auto` is here."""
    if layout == "auto":
        return "grid" if importlib.util.find_spec("xatlas") is None else "xatlas"
    return layout


def fitting_size(count: int, layout: Literal["grid", "xatlas"]) -> int:
    """Texels per side, a power of two, with which a layout has room for `count` faces; see `TextureConfig.size`."""
    least, needed = (256, _CELL * _cells_per_side(count)) if layout == "grid" else (1024, _CHART_FACE * count**0.5)
    return max(least, 2 ** math.ceil(math.log2(max(1, needed))))


def _cells_per_side(count: int) -> int:
    return max(1, math.ceil(math.sqrt(math.ceil(count / 2))))


def _cells(count: int, cells: int, side: int, size: int) -> Fragments:
    """Texels of the grid: every one of a cell belongs to the triangle on its side of the diagonal, at the triangle's
    nearest point, so that lookups beside an edge meet no other face's colours."""
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    cell = row // side * cells + column // side
    x, y = column % side + 0.5, row % side + 0.5
    upper = x + y >= side
    face = 2 * cell + upper
    used = (row // side < cells) & (column // side < cells) & (face < count)
    x, y = torch.where(upper, side - x, x), torch.where(upper, side - y, y)
    shares = (torch.stack([x, y], -1) - _MARGIN).clamp_min(0) / (side - 2 * _MARGIN - 2.5)
    shares = shares / shares.sum(-1, keepdim=True).clamp_min(1)
    weights = torch.cat([1 - shares.sum(-1, keepdim=True), shares], -1)
    return Fragments(face=torch.where(used, face, -1), barycentric=weights * used[..., None])


def xatlas_library() -> Any:
    """The module.

    Raises:
        ResourceError: it is not installed.
    """
    try:
        import xatlas  # pyright: ignore[reportMissingImports] (optional)
    except ImportError as error:
        raise ResourceError(f"layout xatlas needs xatlas ({error}). Run: pip install 'pcs_ext[threed]'.") from None
    return xatlas


def _xatlas_layout(mesh: Any, size: int) -> Layout:
    xatlas = xatlas_library()
    atlas = xatlas.Atlas()
    atlas.add_mesh(np.asarray(mesh.vertices, np.float32), np.asarray(mesh.faces, np.uint32))
    pack = xatlas.PackOptions()
    pack.resolution, pack.padding = size, 2
    atlas.generate(pack_options=pack)
    origin, faces, uv = (np.asarray(part) for part in atlas[0])
    faces, flat = faces.astype(np.int64), torch.from_numpy(uv.astype(np.float64))
    points = torch.stack([flat[:, 0] * size, (1 - flat[:, 1]) * size, torch.ones(len(flat))], -1)
    return Layout(origin.astype(np.int64), faces, flat.numpy(), rasterize(points, torch.from_numpy(faces), size, size))


@torch.no_grad()
def _baked(paint: Painter, made: Layout, vertices: Tensor, normals: Tensor, padding: int) -> np.ndarray:
    """What the painter says of the surface, as 8-bit `s s 3` or `s s 5`."""
    covered, faces = made.seen.face >= 0, torch.from_numpy(made.faces)
    places, outward = (made.seen.interpolate(values, faces)[covered] for values in (vertices, normals))
    painted = paint(places, functional.normalize(outward, dim=-1))
    color = torch.zeros(*covered.shape, painted.shape[-1])
    color[covered] = painted
    filled = pad_charts(color.permute(2, 0, 1), covered, padding)
    return (filled.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def pad_charts(image: Tensor, covered: Tensor, rounds: int) -> Tensor:
    """Let colours grow over empty texels, one texel a round, as the mean of the covered neighbours.

    Args:
        image: `c h w`.
        covered: `h w` bool.
        rounds: how far.
    """
    known, mask = image[None] * covered, covered[None, None].to(image)
    kernel = torch.ones(1, 1, 3, 3)
    for _ in range(rounds):
        count = functional.conv2d(mask, kernel, padding=1)
        summed = functional.conv2d(known.transpose(0, 1), kernel, padding=1).transpose(0, 1)
        grown = torch.where(mask > 0, known, summed / count.clamp_min(1))
        known, mask = grown, (count > 0).to(image)
    return known[0]
