"""A GLB before trimesh reads it: what trimesh would misread is refused, and colours get a name under which it keeps
them as they are. Format: glTF 2.0, section 4.4 and the extensions' own texts."""

import json
import struct
from pathlib import Path
from typing import Any

from pcs_ext.errors import InputError

COLORS = "_COLOR_0"
"""Attribute under which colours at vertices are read: of COLOR_0 trimesh keeps the lowest eight bits of sixteen."""
_PACKED = {
    "KHR_draco_mesh_compression": "compressed with Draco; export it without compression",
    "EXT_meshopt_compression": "compressed with meshopt; export it without compression",
    "KHR_mesh_quantization": "quantized; export it without quantization",
}
_READ = ("KHR_materials_", "KHR_texture_transform", "EXT_texture_webp")
"""Beginnings of extensions that may be required."""
_MAGIC, _JSON, _FLOAT = 0x46546C67, 0x4E4F534A, 5126


def glb_for_trimesh(path: Path) -> bytes:
    """A GLB's bytes, its COLOR_0 renamed to `COLORS`.

    Raises:
        InputError: it needs an extension, or a kind of storage, that is not read, or is damaged.
    """
    try:
        return _renamed(path.read_bytes(), path)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        # Its JSON may be of any shape: what a walk through it does not find, or finds of another kind, is damage.
        raise unreadable(path, error) from error


def unreadable(path: Path, reason: object) -> InputError:
    """What a mesh file that cannot be parsed ends in."""
    kind = path.suffix.lower().lstrip(".")
    return InputError(f"{path}: expected a {kind} mesh, could not read it ({reason}). Export it again.")


def _renamed(data: bytes, path: Path) -> bytes:
    if len(data) < 20:
        raise ValueError("it ends within its header")
    magic, _, _, length, kind = struct.unpack("<5I", data[:20])
    if magic != _MAGIC or kind != _JSON:
        raise ValueError("it does not begin as a GLB does")
    document = json.loads(data[20 : 20 + length])
    if not isinstance(document, dict):
        raise ValueError("its JSON is no object")
    _check_extensions(document, path)
    _check_storage(document, path)
    for primitive in _primitives(document):
        attributes = primitive["attributes"]
        if "COLOR_0" in attributes:
            attributes[COLORS] = attributes.pop("COLOR_0")
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + length :]
    return struct.pack("<5I", _MAGIC, 2, 20 + len(text) + len(rest), len(text), _JSON) + text + rest


def _primitives(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [primitive for mesh in document.get("meshes", []) for primitive in mesh["primitives"]]


def _check_extensions(document: dict[str, Any], path: Path) -> None:
    """Raises InputError on what must be understood and is not."""
    for name in document.get("extensionsRequired", []):
        if name in _PACKED:
            raise InputError(f"{path}: expected plain glTF, got a file {_PACKED[name]} ({name}).")
        if not name.startswith(_READ):
            raise InputError(f"{path}: it needs the extension {name}, which is not read. Export it without that.")
    for material in document.get("materials", []):
        picture = material.get("pbrMetallicRoughness", {}).get("baseColorTexture", {})
        moved = picture.get("extensions", {}).get("KHR_texture_transform", {})
        same = {"offset": [0, 0], "scale": [1, 1], "rotation": 0, "texCoord": picture.get("texCoord", 0)}
        if any(moved[key] != same[key] for key in same if key in moved):
            raise InputError(
                f"{path}: a material moves its texture (KHR_texture_transform), which is not read. Apply the mapping "
                "to the texture coordinates in a modelling program and export it again."
            )


def _check_storage(document: dict[str, Any], path: Path) -> None:
    """Raises InputError on numbers that would be read as zeros or as other numbers."""
    accessors = document.get("accessors", [])
    for primitive in _primitives(document):
        used = [*primitive["attributes"].values(), *([primitive["indices"]] if "indices" in primitive else [])]
        if any("sparse" in accessors[index] for index in used):
            raise InputError(f"{path}: expected plain glTF, got sparse accessors, which are not read. Export without.")
        places = accessors[primitive["attributes"]["POSITION"]]
        if "bufferView" not in places:
            packed = ", ".join(primitive.get("extensions", {})) or "nothing"
            raise InputError(f"{path}: expected plain positions, got {packed} instead. Export it without compression.")
        if places["componentType"] != _FLOAT:
            raise InputError(f"{path}: expected positions as floats, got a file {_PACKED['KHR_mesh_quantization']}.")
