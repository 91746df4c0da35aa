"""OBJ with a texture: faces share their corners and have their own places in the picture, as modelling programs expect.

Written by hand because trimesh writes one corner per place in the picture: every seam of the texture would be a cut in
the surface. Format: Wavefront OBJ and MTL; `map_Pr` and `map_Pm` are the extension for roughness and metalness.
"""

from pathlib import Path
from typing import Any

import numpy as np

from pcs_ext.config_io import atomic_write_bytes
from pcs_ext.image.png import png_bytes


def write_textured_obj(mesh: Any, path: Path) -> None:
    """Write `NAME.obj` and, beside it, `NAME.mtl` and `NAME.png` (also `NAME_roughness.png` and `NAME_metalness.png`
    where the material has a map of them, as glTF packs them: green and blue).

    Args:
        mesh: `trimesh.Trimesh`, y up, with a texture.
        path: of the OBJ.
    """
    material = mesh.visual.material
    color = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    assert color is not None, "a textured mesh has a picture"
    pictures = {"map_Kd": (f"{path.stem}.png", color.convert("RGB"))}
    packed = getattr(material, "metallicRoughnessTexture", None)
    if packed is not None:
        _, roughness, metalness = packed.convert("RGB").split()
        pictures["map_Pr"] = f"{path.stem}_roughness.png", roughness
        pictures["map_Pm"] = f"{path.stem}_metalness.png", metalness
    for name, picture in pictures.values():
        atomic_write_bytes(path.with_name(name), png_bytes(picture))
    lines = ["newmtl surface", "Kd 1 1 1", "Ks 0 0 0", "illum 1"]
    lines += [f"{key} {name}" for key, (name, _) in pictures.items()]
    atomic_write_bytes(path.with_suffix(".mtl"), ("\n".join(lines) + "\n").encode())
    # The OBJ last: when it is there, what it refers to is there.
    atomic_write_bytes(path, _obj(mesh, path.stem).encode())


def _obj(mesh: Any, name: str) -> str:
    """The text. Corners are shared where they are equal to the bit, as those doubled for a seam are."""
    faces = np.asarray(mesh.faces)
    corners, corner_of = _shared(mesh.vertices)
    normals, normal_of = _shared(mesh.vertex_normals)
    places, place_of = _shared(mesh.visual.uv)
    lines = [f"mtllib {name}.mtl", f"o {name}"]
    for key, rows, form in (("v", corners, "%.8g"), ("vt", places, "%.8g"), ("vn", normals, "%.5g")):
        pattern = " ".join([key, *[form] * rows.shape[1]])
        lines += [pattern % tuple(row) for row in rows.tolist()]
    lines.append("usemtl surface")
    numbers = np.stack([of[faces] + 1 for of in (corner_of, place_of, normal_of)], -1).reshape(-1, 9)
    face = "f {}/{}/{} {}/{}/{} {}/{}/{}"
    lines += [face.format(*row) for row in numbers.tolist()]
    return "\n".join(lines) + "\n"


def _shared(rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """Different rows in the order they come first, and for every row its number among them."""
    rows = np.asarray(rows, np.float64)
    _, first, number = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return rows[first[order]], rank[number.reshape(-1)]
