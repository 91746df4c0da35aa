"""What Blender finds in a mesh file; runs inside Blender: `blender -b --factory-startup -P blender_reader.py -- FILE`.

Prints one line, `found` and JSON: corners' bounds, volume, edges without two faces, and how far colours are from those
that `benchmarks.other_programs` painted.
"""

import json
import sys
from pathlib import Path

import bmesh  # pyright: ignore[reportMissingImports] (Blender's own)
import bpy  # pyright: ignore[reportMissingImports] (Blender's own)
import numpy as np

np.bool = bool  # pyright: ignore[reportAttributeAccessIssue] (Blender 3.4 asks numpy for a name it no longer has)


def _loaded(path: Path):
    bpy.ops.wm.read_factory_settings(use_empty=True)
    if path.suffix == ".glb":
        bpy.ops.import_scene.gltf(filepath=str(path))
    elif path.suffix == ".obj":
        bpy.ops.wm.obj_import(filepath=str(path))
    else:
        bpy.ops.import_mesh.ply(filepath=str(path))
    (found,) = [thing for thing in bpy.data.objects if thing.type == "MESH"]
    found.data.transform(found.matrix_world)
    return found.data


def _colors(mesh, faces: np.ndarray) -> np.ndarray:
    """Of every face's middle, `n 3` of 0 to 1: from the picture it lies on, or its corners."""
    loops = np.arange(3 * len(faces)).reshape(-1, 3)
    if not mesh.uv_layers:
        corners = np.array([entry.color[:3] for entry in mesh.vertex_colors[0].data])
        return corners[loops].mean(1)
    places = np.array([entry.uv for entry in mesh.uv_layers[0].data])[loops].mean(1)
    nodes = mesh.materials[0].node_tree.nodes
    (base,) = [node for node in nodes if node.type == "BSDF_PRINCIPLED"]
    picture = base.inputs["Base Color"].links[0].from_node.image
    width, height = picture.size
    pixels = np.array(picture.pixels[:]).reshape(height, width, -1)
    return pixels[(places[:, 1] * height).astype(int), (places[:, 0] * width).astype(int), :3]


def main() -> None:
    path, low, high = sys.argv[sys.argv.index("--") + 1 :]
    mesh = _loaded(Path(path))
    corners = np.array([corner.co for corner in mesh.vertices])
    faces = np.array([face.vertices for face in mesh.polygons])
    edit = bmesh.new()
    edit.from_mesh(mesh)
    low, high = np.array(json.loads(low)), np.array(json.loads(high))
    painted = 0.1 + 0.8 * (corners[faces].mean(1) - low) / (high - low)
    found = {
        "low": corners.min(0).tolist(),
        "high": corners.max(0).tolist(),
        "volume": edit.calc_volume(signed=True),
        "open_edges": sum(not edge.is_manifold for edge in edit.edges),
        "faces": len(faces),
        "color_off": float(np.abs(_colors(mesh, faces) - painted).mean() * 255),
    }
    print("found", json.dumps(found))


main()
