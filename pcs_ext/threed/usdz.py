"""USDZ: what Apple's devices show, a zip that is read in place: stored files, each at a multiple of 64 bytes.

The stage is text (usda), so that nothing but this file is needed to write it. Format: the USDZ file format
specification (openusd.org); material: UsdPreviewSurface.
"""

import io
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from pcs_ext.image.png import png_bytes
from pcs_ext.threed.mesh_colors import DULL, as_light

_ALIGNMENT = 64
_HEADER = 30
"""Bytes of a zip entry before its name."""
_PADDING_ID = b"\x86\x19"
"""Of the extra field that pads; any number that no tool reads will do."""
_SEPARATOR = "\n            "
"""Of the surface's inputs."""
_METERS = 0.1
"""Per unit: a toy two units tall stands 20 cm high on the table it is shown on."""


def usdz_bytes(mesh: Any) -> bytes:
    """A mesh as USDZ.

    Args:
        mesh: `trimesh.Trimesh`, y up, with vertex colours or a texture; of a texture that came as a map of base colour,
            roughness (green) and metalness (blue), all is kept.
    """
    files, material = _material(mesh)
    stage = _HEAD.format(meters=_METERS, mesh=_mesh(mesh), material=material)
    # The stage must be the first file.
    return stored_aligned({"scene.usda": stage.encode(), **files})


def stored_aligned(files: Mapping[str, bytes]) -> bytes:
    """A zip of uncompressed files whose contents begin at multiples of 64 bytes, the same for the same files."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            gap = -(buffer.tell() + _HEADER + len(name.encode())) % _ALIGNMENT
            # An extra field has four bytes of its own.
            gap += _ALIGNMENT if 0 < gap < 4 else 0
            if gap:
                entry.extra = _PADDING_ID + (gap - 4).to_bytes(2, "little") + bytes(gap - 4)
            archive.writestr(entry, data)
    return buffer.getvalue()


def _material(mesh: Any) -> tuple[dict[str, bytes], str]:
    """Pictures beside the stage, and the shader."""
    if mesh.visual.kind != "texture":
        inputs = ["color3f inputs:diffuseColor.connect = </Object/Material/Colors.outputs:result>", *_factors(None)]
        reader = _reader("Colors", "float3", "displayColor", "vector3f")
        return {}, _SURFACE.format(inputs=_SEPARATOR.join(inputs), shaders=reader)
    material = mesh.visual.material
    base = getattr(material, "baseColorTexture", None) or getattr(material, "image", None)
    assert base is not None, "a textured mesh has a picture"
    files = {"textures/color.png": png_bytes(base.convert("RGB"))}
    inputs = ["color3f inputs:diffuseColor.connect = </Object/Material/Color.outputs:rgb>"]
    shaders = [_reader("Places", "float2", "st", "float2"), _picture("Color", "color.png", "sRGB")]
    maps = getattr(material, "metallicRoughnessTexture", None)
    if maps is not None:
        files["textures/maps.png"] = png_bytes(maps.convert("RGB"))
        inputs.append("float inputs:roughness.connect = </Object/Material/Maps.outputs:g>")
        inputs.append("float inputs:metallic.connect = </Object/Material/Maps.outputs:b>")
        shaders.append(_picture("Maps", "maps.png", "raw"))
    else:
        inputs += _factors(material)
    return files, _SURFACE.format(inputs=_SEPARATOR.join(inputs), shaders="\n".join(shaders))


def _factors(material: Any) -> list[str]:
    """Roughness and metalness of a material without a map of them, or of none; what USD takes for granted is plastic.

    A `PBRMaterial` that says nothing is what glTF takes for granted: rough metal.
    """
    rough, metal = DULL["roughnessFactor"], DULL["metallicFactor"]
    if hasattr(material, "metallicFactor"):
        rough, metal = (1.0 if v is None else v for v in (material.roughnessFactor, material.metallicFactor))
    return [f"float inputs:roughness = {rough:.6g}", f"float inputs:metallic = {metal:.6g}"]


def _mesh(mesh: Any) -> str:
    """The geometry: points, faces, normals, and colours or texture coordinates at points."""
    low, high = mesh.bounds
    lines = [
        f"float3[] extent = {_tuples(np.stack([low, high]))}",
        f"int[] faceVertexCounts = {[3] * len(mesh.faces)}",
        f"int[] faceVertexIndices = {mesh.faces.flatten().tolist()}",
        f"point3f[] points = {_tuples(mesh.vertices)}",
        f'normal3f[] normals = {_tuples(mesh.vertex_normals)} (\n            interpolation = "vertex"\n        )',
    ]
    if mesh.visual.kind == "texture":
        # Both have their origin at the lower left.
        name, values = "texCoord2f[] primvars:st", np.asarray(mesh.visual.uv)
    else:
        linear = as_light(np.asarray(mesh.visual.vertex_colors)[:, :3] / 255.0)
        name, values = "color3f[] primvars:displayColor", linear
    lines.append(f'{name} = {_tuples(values)} (\n            interpolation = "vertex"\n        )')
    return "\n        ".join(lines)


def _tuples(rows: np.ndarray) -> str:
    return "[" + ", ".join("(" + ", ".join(f"{value:.6g}" for value in row) + ")" for row in rows) + "]"


def _reader(name: str, kind: str, variable: str, result: str) -> str:
    return (
        f'        def Shader "{name}"\n        {{\n'
        f'            uniform token info:id = "UsdPrimvarReader_{kind}"\n'
        f'            string inputs:varname = "{variable}"\n'
        f"            {'float3' if result == 'vector3f' else result} outputs:result\n        }}"
    )


def _picture(name: str, file: str, space: str) -> str:
    return (
        f'        def Shader "{name}"\n        {{\n'
        f'            uniform token info:id = "UsdUVTexture"\n'
        f"            asset inputs:file = @textures/{file}@\n"
        f'            token inputs:sourceColorSpace = "{space}"\n'
        f"            float2 inputs:st.connect = </Object/Material/Places.outputs:result>\n"
        f'            token inputs:wrapS = "repeat"\n'
        f'            token inputs:wrapT = "repeat"\n'
        f"            float outputs:b\n"
        f"            float outputs:g\n"
        f"            float3 outputs:rgb\n        }}"
    )


_HEAD = """#usda 1.0
(
    defaultPrim = "Object"
    metersPerUnit = {meters}
    upAxis = "Y"
)

def Xform "Object" (
    kind = "component"
)
{{
    def Mesh "Mesh" (
        prepend apiSchemas = ["MaterialBindingAPI"]
    )
    {{
        uniform token subdivisionScheme = "none"
        rel material:binding = </Object/Material>
        {mesh}
    }}

{material}
}}
"""
_SURFACE = """    def Material "Material"
    {{
        token outputs:surface.connect = </Object/Material/Surface.outputs:surface>

        def Shader "Surface"
        {{
            uniform token info:id = "UsdPreviewSurface"
            {inputs}
            token outputs:surface
        }}

{shaders}
    }}"""
