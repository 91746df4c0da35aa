"""Pictures of a mesh: its own colours or texture, softly lit from the camera."""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pcs_ext.threed.cameras import Cameras
from pcs_ext.threed.rasterize import Fragments, project, rasterize

_SUPERSAMPLING = 2
_AMBIENT = 0.65


def render_mesh(
    mesh: Any, cameras: Cameras, height: int, width: int, *, background: float = 1.0, lit: bool = True
) -> Tensor:
    """Pictures `b 3 h w` in [0, 1], antialiased by four samples per pixel.

    Args:
        mesh: `trimesh.Trimesh` in world axes (z up), with colours of vertices or faces, a texture or none (grey).
        cameras: `b`.
        height, width: pixels.
        background: grey behind it, in [0, 1].
        lit: shade by a light at the camera; False shows the colours as they are.
    """
    vertices = torch.from_numpy(np.array(mesh.vertices)).float()
    faces = torch.from_numpy(np.array(mesh.faces)).long()
    normals = torch.from_numpy(np.array(mesh.vertex_normals)).float()
    paint, size = Paint(mesh), (height * _SUPERSAMPLING, width * _SUPERSAMPLING)
    pictures = []
    for index in range(len(cameras)):
        seen = rasterize(project(cameras, index, vertices, *size), faces, *size)
        color = paint(seen, faces)
        if lit:
            toward = functional.normalize(cameras.positions[index] - seen.interpolate(vertices, faces), dim=-1)
            facing = (functional.normalize(seen.interpolate(normals, faces), dim=-1) * toward).sum(-1).abs()
            color = color * (_AMBIENT + (1 - _AMBIENT) * facing)[..., None]
        color = torch.where((seen.face >= 0)[..., None], color, torch.full_like(color, background))
        pictures.append(functional.avg_pool2d(color.permute(2, 0, 1), _SUPERSAMPLING))
    return torch.stack(pictures)


class Paint:
    """The colour of a mesh at fragments, `h w 3` in [0, 1]."""

    def __init__(self, mesh: Any) -> None:
        self.texture: Tensor | None = None
        self.of_faces: Tensor | None = None
        image = _texture_image(mesh)
        if image is not None:
            self.values = torch.from_numpy(np.array(mesh.visual.uv)).float()
            pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
            self.texture = torch.from_numpy(pixels).permute(2, 0, 1)[None]
            return
        colors = np.full((len(mesh.vertices), 3), 180, np.uint8)
        if mesh.visual.kind == "vertex":
            colors = np.array(mesh.visual.vertex_colors)[:, :3]
        self.values = torch.from_numpy(colors.astype(np.float32) / 255)
        if mesh.visual.kind == "face":
            self.of_faces = torch.from_numpy(np.array(mesh.visual.face_colors)[:, :3].astype(np.float32) / 255)

    def __call__(self, seen: Fragments, faces: Tensor) -> Tensor:
        """Colours at fragments."""
        if self.of_faces is not None:
            return self.of_faces[seen.face.clamp_min(0)]
        values = seen.interpolate(self.values, faces)
        if self.texture is None:
            return values
        return texture_colors(self.texture, values)


def texture_colors(texture: Tensor, places: Tensor) -> Tensor:
    """What a picture that repeats in both directions, as every program takes it to, has at places.

    Args:
        texture: `1 c h w`, first row at v = 1.
        places: texture coordinates `a b 2`, origin at the bottom left.

    Returns:
        `a b c`, between the four nearest texels.
    """
    height, width = texture.shape[-2:]
    # A texel of the other side on every side, so that lookups near an edge find their neighbours.
    around = functional.pad(texture, (1, 1, 1, 1), mode="circular")
    u, v = places[..., 0] % 1, (1 - places[..., 1]) % 1
    grid = torch.stack([(u * width + 1) / (width + 2), (v * height + 1) / (height + 2)], -1) * 2 - 1
    return functional.grid_sample(around, grid[None], align_corners=False, padding_mode="border")[0].permute(1, 2, 0)


def colors_at_vertices(mesh: Any) -> np.ndarray:
    """The colours of a mesh's picture where its vertices lie, `n 4` of 0 to 255."""
    image = _texture_image(mesh)
    assert image is not None, "a textured mesh has a picture"
    pixels = torch.from_numpy(np.array(image.convert("RGBA"), dtype=np.float32)).permute(2, 0, 1)[None]
    places = torch.from_numpy(np.array(mesh.visual.uv)).float()
    return texture_colors(pixels, places[None])[0].round().clamp(0, 255).byte().numpy()


def _texture_image(mesh: Any) -> Any:
    if mesh.visual.kind != "texture" or mesh.visual.uv is None:
        return None
    material = mesh.visual.material
    return getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
