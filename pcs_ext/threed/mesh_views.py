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
        mesh: `trimesh.Trimesh` in world axes (z up), with vertex colours, a texture or neither (grey).
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

    def __call__(self, seen: Fragments, faces: Tensor) -> Tensor:
        """Colours at fragments."""
        values = seen.interpolate(self.values, faces)
        if self.texture is None:
            return values
        # Texture coordinates have their origin at the bottom left, pictures at the top left.
        grid = torch.stack([values[..., 0] * 2 - 1, 1 - values[..., 1] * 2], -1)
        found = functional.grid_sample(self.texture, grid[None], align_corners=False, padding_mode="border")
        return found[0].permute(1, 2, 0)


def _texture_image(mesh: Any) -> Any:
    if mesh.visual.kind != "texture" or mesh.visual.uv is None:
        return None
    material = mesh.visual.material
    return getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
