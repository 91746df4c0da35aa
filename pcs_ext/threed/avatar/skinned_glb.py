"""A figure as a GLB with a skin and joints: glTF 2.0, sections 3.7.3 and 5.28, written by hand."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pcs_ext.config_io import atomic_write_bytes
from pcs_ext.image.png import png_bytes
from pcs_ext.threed.avatar.figure import Figure
from pcs_ext.threed.avatar.rotations import quaternions_of
from pcs_ext.threed.avatar.skeleton import NAMES, PARENTS, REST, Bones
from pcs_ext.threed.avatar.skinning import JOINTS_PER_POINT
from pcs_ext.threed.glb_writing import colors_as_light

_Y_UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
"""World (z up, front at -y) to glTF (y up, front at +z)."""
_FLOAT, _BYTE, _SHORT, _INT = 5126, 5121, 5123, 5125
_KINDS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}


class _Buffer:
    """Bytes, and what of them is what."""

    def __init__(self) -> None:
        self.data = bytearray()
        self.views: list[dict[str, Any]] = []
        self.accessors: list[dict[str, Any]] = []

    def view(self, data: bytes, target: int | None = None) -> int:
        self.data += b"\0" * (-len(self.data) % 4)
        entry: dict[str, Any] = {"buffer": 0, "byteOffset": len(self.data), "byteLength": len(data)}
        self.views.append(entry if target is None else {**entry, "target": target})
        self.data += data
        return len(self.views) - 1

    def array(self, values: np.ndarray, component: int, target: int | None = None, **more: Any) -> int:
        view = self.view(np.ascontiguousarray(values).tobytes(), target)
        width = values.shape[1] if values.ndim > 1 else 1
        self.accessors.append({"bufferView": view, "componentType": component, "count": len(values),
                               "type": _KINDS[width], **more})  # fmt: skip
        return len(self.accessors) - 1


def write_skinned(figure: Figure, turns: torch.Tensor, bones: Bones, path: Path) -> None:
    """Write a figure with its bones, which stand in a pose; every other pose can be given to them later.

    Args:
        figure: the standing figure; its mesh is stored as it stands.
        turns: rotations `j 3 3` of the joints against their parents.
        bones: where that puts them (one body); only the place of the hips is read.
        path: ends in .glb; appears whole.
    """
    buffer = _Buffer()
    attributes, indices = _geometry(buffer, figure)
    primitive = {"attributes": attributes, "indices": indices, "material": 0}
    material, pictures = _material(buffer, figure.mesh)
    document = {
        "asset": {"version": "2.0", "generator": "pcs_ext"},
        "scene": 0,
        "scenes": [{"nodes": [0, len(NAMES)]}],
        "nodes": [*_joints(turns, bones), {"name": "body", "mesh": 0, "skin": 0}],
        "meshes": [{"name": "body", "primitives": [primitive]}],
        "skins": [{"joints": list(range(len(NAMES))), "inverseBindMatrices": _bind(buffer), "skeleton": 0}],
        "materials": [material],
        **pictures,
        "accessors": buffer.accessors,
        "bufferViews": buffer.views,
        "buffers": [{"byteLength": len(buffer.data)}],
    }
    atomic_write_bytes(path, _packed(document, bytes(buffer.data)))


def _joints(turns: torch.Tensor, bones: Bones) -> list[dict[str, Any]]:
    """A node per joint; without turns, axes are those of the world, as in the standing body."""
    turned = np.einsum("ab,jbc,dc->jad", _Y_UP, turns.double().numpy(), _Y_UP)
    quaternions = quaternions_of(torch.from_numpy(turned)).tolist()
    rest = REST.double().numpy()
    nodes: list[dict[str, Any]] = []
    for joint, name in enumerate(NAMES):
        parent = PARENTS[joint]
        place = bones.places[0, joint].double().numpy() if parent < 0 else rest[joint] - rest[parent]
        node: dict[str, Any] = {"name": name, "translation": (_Y_UP @ place).tolist(), "rotation": quaternions[joint]}
        children = [child for child, other in enumerate(PARENTS) if other == joint]
        nodes.append({**node, "children": children} if children else node)
    return nodes


def _bind(buffer: _Buffer) -> int:
    """Inverse bind matrices: the standing joints only stand elsewhere, column by column."""
    matrices = np.tile(np.eye(4), (len(NAMES), 1, 1))
    matrices[:, :3, 3] = -REST.double().numpy() @ _Y_UP.T
    return buffer.array(matrices.transpose(0, 2, 1).reshape(-1, 16).astype(np.float32), _FLOAT)


def _geometry(buffer: _Buffer, figure: Figure) -> tuple[dict[str, int], int]:
    mesh, vertices_target, indices_target = figure.mesh, 34962, 34963
    places = (np.asarray(mesh.vertices) @ _Y_UP.T).astype(np.float32)
    normals = np.asarray(mesh.vertex_normals, np.float64) @ _Y_UP.T
    normals = (normals / np.linalg.norm(normals, axis=1, keepdims=True).clip(1e-8)).astype(np.float32)
    weights, joints = (part.numpy() for part in figure.weights.topk(JOINTS_PER_POINT, dim=1))
    joints = np.where(weights > 0, joints, 0)  # glTF: joints of no weight are 0
    span = {"min": places.min(0).tolist(), "max": places.max(0).tolist()}
    attributes = {
        "POSITION": buffer.array(places, _FLOAT, vertices_target, **span),
        "NORMAL": buffer.array(normals, _FLOAT, vertices_target),
        "JOINTS_0": buffer.array(joints.astype(np.uint8), _BYTE, vertices_target),
        "WEIGHTS_0": buffer.array(_of_sum_one(weights), _FLOAT, vertices_target),
    }
    if _picture(mesh) is not None:
        uv = np.asarray(mesh.visual.uv, np.float64)
        flipped = np.stack([uv[:, 0], 1 - uv[:, 1]], 1).astype(np.float32)  # glTF's origin is the top left
        attributes["TEXCOORD_0"] = buffer.array(flipped, _FLOAT, vertices_target)
    elif mesh.visual.kind in ("vertex", "face"):
        colors = colors_as_light(mesh.visual.vertex_colors)
        attributes["COLOR_0"] = buffer.array(colors, _FLOAT, vertices_target)
    faces = np.asarray(mesh.faces, np.uint32).reshape(-1)
    return attributes, buffer.array(faces, _INT, indices_target)


def _of_sum_one(weights: np.ndarray) -> np.ndarray:
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _picture(mesh: Any) -> Any:
    if mesh.visual.kind != "texture" or mesh.visual.uv is None:
        return None
    material = mesh.visual.material
    return getattr(material, "baseColorTexture", None) or getattr(material, "image", None)


def _material(buffer: _Buffer, mesh: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    surface: dict[str, Any] = {"metallicFactor": 0.0, "roughnessFactor": 0.9}
    picture = _picture(mesh)
    if picture is None:
        return {"name": "skin", "pbrMetallicRoughness": surface}, {}
    data = png_bytes(picture.convert("RGB"))
    pictures = {
        "textures": [{"source": 0}],
        "images": [{"name": "skin", "mimeType": "image/png", "bufferView": buffer.view(data)}],
    }
    return {"name": "skin", "pbrMetallicRoughness": {**surface, "baseColorTexture": {"index": 0}}}, pictures


def _packed(document: dict[str, Any], data: bytes) -> bytes:
    """The GLB container: header, JSON padded with spaces, bytes padded with zeros (glTF 2.0, section 4.4)."""
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    data += b"\0" * (-len(data) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(data), 0x004E4942) + data
    return struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks
