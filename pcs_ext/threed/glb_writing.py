"""A mesh as GLB, with colours as glTF means them; trimesh writes sRGB bytes where light is expected."""

from typing import Any

import numpy as np

from pcs_ext.threed.gltf_reading import COLORS
from pcs_ext.threed.mesh_colors import DULL, as_light


def colors_as_light(colors: np.ndarray) -> np.ndarray:
    """Colours `n 4` of sRGB bytes as COLOR_0 wants them: light, as 32-bit floats, the opacity as it is."""
    values = np.asarray(colors, np.float64) / 255
    return np.concatenate([as_light(values[:, :3]), values[:, 3:]], -1).astype(np.float32)


def glb_bytes(mesh: Any) -> bytes:
    """A `trimesh.Trimesh`, y up, as a GLB with normals; its visuals are replaced by those that glTF has."""
    from trimesh.visual import TextureVisuals
    from trimesh.visual.material import PBRMaterial

    if mesh.visual.kind in ("vertex", "face"):
        # Under another name: trimesh writes what it takes for colours as bytes.
        mesh.vertex_attributes[COLORS] = colors_as_light(mesh.visual.vertex_colors)
        mesh.visual = TextureVisuals(material=PBRMaterial(**DULL))
    elif mesh.visual.kind == "texture" and getattr(mesh.visual.material, "image", None) is not None:
        material = PBRMaterial(baseColorTexture=mesh.visual.material.image, **DULL)
        mesh.visual = TextureVisuals(uv=mesh.visual.uv, material=material)
    # Without normals, readers shade a mesh whose vertices are doubled on seams as if it had facets.
    return mesh.export(file_type="glb", include_normals=True, tree_postprocessor=_named)


def _named(document: dict[str, Any]) -> None:
    """Give COLOR_0 its name."""
    for mesh in document["meshes"]:
        for primitive in mesh["primitives"]:
            attributes = primitive["attributes"]
            if COLORS in attributes:
                attributes["COLOR_0"] = attributes.pop(COLORS)
