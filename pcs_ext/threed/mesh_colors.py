"""What a mesh file says of colours, brought to one form: sRGB bytes at vertices, or one picture that holds all factors.

glTF's colours at vertices and its factors are light; its pictures are in sRGB's curve (glTF 2.0, section 3.9.2).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from pcs_ext.errors import InputError
from pcs_ext.threed.gltf_reading import COLORS
from pcs_ext.threed.texture import fitting_size, grid_layout

_PICTURES = (
    "baseColorTexture",
    "metallicRoughnessTexture",
    "normalTexture",
    "emissiveTexture",
    "occlusionTexture",
)
DULL: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 0.9}
"""Of materials that say nothing of it: what glTF takes for granted is metal."""
_LARGEST = 8192
"""Texels per side beyond which trimesh shrinks a picture that it packs."""


def as_light(encoded: np.ndarray) -> np.ndarray:
    """Numbers of sRGB's curve in [0, 1] as light."""
    return np.where(encoded <= 0.04045, encoded / 12.92, ((encoded + 0.055) / 1.055) ** 2.4)


def as_srgb(light: np.ndarray) -> np.ndarray:
    """Light in [0, 1] in sRGB's curve."""
    return np.where(light <= 0.0031308, 12.92 * light, 1.055 * np.maximum(light, 0.0031308) ** (1 / 2.4) - 0.055)


def has_picture(visual: Any) -> bool:
    """Whether a mesh's material has a picture, and the mesh says where on it its faces lie."""
    material = visual.material
    picture = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    return picture is not None and visual.uv is not None


def settle_colors(parts: Sequence[Any], kind: str) -> None:
    """Bring the colours of meshes into one form, in place; a mesh without colours or a material is left without.

    Args:
        parts: `trimesh.Trimesh`, as read; a GLB's with colours in the attribute `COLORS`.
        kind: the format they come from.
    """
    from trimesh.visual import ColorVisuals

    # With the old material, so that no other can come to have its number.
    folded: dict[int, tuple[Any, Any]] = {}
    for part in parts:
        light, visual = part.vertex_attributes.pop(COLORS, None), part.visual
        if kind == "ply" and visual.kind == "texture" and "color" in part.vertex_attributes:
            # Places in a picture that a PLY does not name, beside colours.
            part.visual = ColorVisuals(part, vertex_colors=part.vertex_attributes.pop("color"))
            continue
        if visual.kind == "texture" and has_picture(visual):
            if hasattr(visual.material, "baseColorTexture"):
                number = id(visual.material)
                folded.setdefault(number, (visual.material, _folded(visual.material)))
                visual.material = folded[number][1]
        elif visual.kind == "texture" or light is not None:
            part.visual = ColorVisuals(part, vertex_colors=_plain_colors(part, light, kind))


def _plain_colors(part: Any, light: np.ndarray | None, kind: str) -> np.ndarray:
    """A material's one colour, times the colours at vertices, `n 4` of 0 to 255 in sRGB's curve."""
    material: Any = getattr(part.visual, "material", None)
    # White, says glTF of a material that says nothing.
    unsaid = kind == "glb" and getattr(material, "baseColorFactor", None) is None
    color = np.ones(4) if material is None or unsaid else np.asarray(material.main_color, dtype=np.float64) / 255
    colors = np.tile(color, (len(part.vertices), 1))
    if light is not None and len(light) == len(colors):
        colors[:, : light.shape[1]] *= _fractions(light)
    if kind == "glb":
        colors[:, :3] = as_srgb(colors[:, :3])
    return (colors * 255).round().astype(np.uint8)


def _fractions(values: np.ndarray) -> np.ndarray:
    """Numbers of glTF's kinds, floats or whole ones that stand for [0, 1], as floats in [0, 1]."""
    scale = np.iinfo(values.dtype).max if values.dtype.kind == "u" else 1
    return np.nan_to_num(values.astype(np.float64) / scale).clip(0, 1)


def _folded(material: Any) -> Any:
    """A copy of a `PBRMaterial` whose pictures hold its factors."""
    found = material.copy()
    if material.baseColorFactor is not None:
        found.baseColorTexture = _tinted(material.baseColorTexture, np.asarray(material.baseColorFactor) / 255)
        found.baseColorFactor = None
    if material.metallicRoughnessTexture is not None:
        values = np.array(material.metallicRoughnessTexture.convert("RGB"), np.float64)
        for channel, factor in ((1, material.roughnessFactor), (2, material.metallicFactor)):
            values[..., channel] *= 1.0 if factor is None else factor
        found.metallicRoughnessTexture = Image.fromarray(values.round().astype(np.uint8))
        found.metallicFactor = found.roughnessFactor = 1.0
    return found


def _tinted(picture: Image.Image, factor: np.ndarray) -> Image.Image:
    """A picture times a factor `4` of light and opacity."""
    if (factor == 1).all():
        return picture
    values = np.array(picture.convert("RGBA"), np.float64) / 255
    values = np.concatenate([as_srgb(as_light(values[..., :3]) * factor[:3]), values[..., 3:] * factor[3]], -1)
    made = Image.fromarray((values * 255).round().astype(np.uint8))
    return made if factor[3] < 1 or picture.has_transparency_data else made.convert("RGB")


def joined(parts: Sequence[Any], path: Path) -> Any:
    """Meshes whose colours are settled as one, with all their colours and pictures.

    Args:
        parts: at least one.
        path: of the file, for errors.

    Raises:
        InputError: a part has too many faces for a picture of its own.
    """
    import trimesh
    from trimesh.visual import ColorVisuals

    kinds = {part.visual.kind for part in parts}
    if len(parts) == 1 or kinds == {None}:
        return parts[0] if len(parts) == 1 else trimesh.util.concatenate(list(parts))
    if "texture" in kinds:
        simple = any(hasattr(getattr(part.visual, "material", None), "image") for part in parts)
        parts = [part if part.visual.kind == "texture" else _pictured(part, simple, path) for part in parts]
        for part in parts:
            _spread(part, path)
    else:
        for part in parts:
            if part.visual.kind is None:
                white = np.full((len(part.vertices), 4), 255, np.uint8)
                part.visual = ColorVisuals(part, vertex_colors=white)
    found: Any = trimesh.util.concatenate(list(parts))
    # trimesh joins the shapes and drops the colours where it cannot join those.
    if found.visual.kind is None:
        raise InputError(f"{path}: its parts' colours could not be joined. Join the parts in a modelling program.")
    return found


def _spread(part: Any, path: Path) -> None:
    """Lay out as often as it is seen a picture that repeats: beside others in one picture nothing can repeat."""
    uv = np.array(part.visual.uv, np.float64)
    low = np.floor(uv.min(0) + 1e-4)
    count = np.maximum(np.ceil(uv.max(0) - 1e-4) - low, 1).astype(int)
    if (count == 1).all():
        part.visual.uv = uv - low
        return
    material = part.visual.material.copy()
    names = ("image",) if hasattr(material, "image") else _PICTURES
    for name in names:
        picture = getattr(material, name)
        if picture is None:
            continue
        if max(picture.width * count[0], picture.height * count[1]) > _LARGEST:
            raise InputError(
                f"{path}: a picture repeats {count[0]} by {count[1]} times on one of several parts, too often to join "
                "them. Bake that part in a modelling program."
            )
        tiles = np.asarray(picture.convert("RGBA" if picture.has_transparency_data else "RGB"))
        setattr(material, name, Image.fromarray(np.tile(tiles, (count[1], count[0], 1))))
    part.visual.material, part.visual.uv = material, (uv - low) / count


def _pictured(part: Any, simple: bool, path: Path) -> Any:
    """A mesh with colours at vertices, or none (white), with a picture of them instead."""
    import trimesh
    from trimesh.visual import TextureVisuals

    colors = np.full((len(part.vertices), 4), 255, np.uint8)
    if part.visual.kind is not None:
        colors = np.asarray(part.visual.vertex_colors)
    if (colors == colors[:1]).all():
        plain = Image.fromarray(np.tile(colors[:1, None], (4, 4, 1)))
        part.visual = TextureVisuals(uv=np.full((len(colors), 2), 0.5), material=_material(plain, simple))
        return part
    size = fitting_size(len(part.faces), "grid")
    if size > _LARGEST:
        raise InputError(
            f"{path}: one part has a picture and another colours at the vertices of {len(part.faces)} faces, too many "
            "to draw as a picture. Join or bake the parts in a modelling program."
        )
    made = grid_layout(part, size)
    values = torch.from_numpy(colors[made.origin]).float()
    drawn = made.seen.interpolate(values, torch.from_numpy(made.faces)).round().byte().numpy()
    visual = TextureVisuals(uv=made.uv, material=_material(Image.fromarray(drawn), simple))
    corners, normals = (np.asarray(rows)[made.origin] for rows in (part.vertices, part.vertex_normals))
    return trimesh.Trimesh(corners, made.faces, vertex_normals=normals, visual=visual, process=False, validate=False)


def _material(picture: Image.Image, simple: bool) -> Any:
    """Of the class that the other parts' materials have: trimesh packs no mixture."""
    from trimesh.visual.material import PBRMaterial, SimpleMaterial

    if simple:
        return SimpleMaterial(image=picture)
    return PBRMaterial(baseColorTexture=picture, **DULL)
