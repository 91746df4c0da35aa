"""A GLB before trimesh reads it: what trimesh would misread is put right or refused, and colours get a name under which
it keeps them as they are. Format: glTF 2.0, section 4.4 and the extensions' own texts."""

import json
import struct
from pathlib import Path
from typing import Any

from pcs_ext.errors import InputError
from pcs_ext.threed.mesh_pictures import check_glb_pictures

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
    """A GLB's bytes: COLOR_0 renamed to `COLORS`, its pictures' coordinates to TEXCOORD_0, skinned meshes at rest.

    Raises:
        InputError: it needs an extension, or a kind of storage, that is not read, or is damaged.
    """
    try:
        return _renamed(path.read_bytes(), path)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
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
    _lay_skins_down(document)
    for primitive in _primitives(document):
        attributes = primitive["attributes"]
        if "COLOR_0" in attributes:
            attributes[COLORS] = attributes.pop("COLOR_0")
        _bring_coordinates(primitive, document, path)
    rest = data[20 + length :]
    check_glb_pictures(document, rest[8:], path)
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    return struct.pack("<5I", _MAGIC, 2, 20 + len(text) + len(rest), len(text), _JSON) + text + rest


def _primitives(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [primitive for mesh in document.get("meshes", []) for primitive in mesh["primitives"]]


def _bring_coordinates(primitive: dict[str, Any], document: dict[str, Any], path: Path) -> None:
    """Name the set of texture coordinates that the material's pictures are laid out by as the first, which is read."""
    materials = document.get("materials", [])
    if "material" not in primitive or not materials:
        return
    material = materials[primitive["material"]]
    places = (*material.get("pbrMetallicRoughness", {}).values(), *material.values())
    sets = {place.get("texCoord", 0) for place in places if isinstance(place, dict) and "index" in place}
    if len(sets) > 1:
        raise InputError(
            f"{path}: the pictures of a material lie by different sets of texture coordinates "
            f"({', '.join(map(str, sorted(sets)))}), of which one is read. Bake them to one set and export again."
        )
    attributes = primitive["attributes"]
    if (wanted := f"TEXCOORD_{next(iter(sets), 0)}") in attributes:
        attributes["TEXCOORD_0"] = attributes[wanted]


def _lay_skins_down(document: dict[str, Any]) -> None:
    """Take skinned meshes out of the tree: joints place them, not the nodes above (glTF 2.0, section 3.7.3.3).

    In the pose they were bound in, joints leave the corners where the file has them.
    """
    nodes = document.get("nodes", [])
    skinned = [index for index, node in enumerate(nodes) if "skin" in node and "mesh" in node]
    added = {index: len(nodes) + place for place, index in enumerate(skinned)}
    for index in skinned:
        nodes.append({key: nodes[index][key] for key in ("name", "mesh") if key in nodes[index]})
        for key in ("mesh", "skin"):
            del nodes[index][key]
    for scene in document.get("scenes", []):
        reached = _below(nodes, scene.get("nodes", []))
        scene["nodes"] = [*scene.get("nodes", []), *(new for old, new in added.items() if old in reached)]


def _below(nodes: list[dict[str, Any]], roots: list[int]) -> set[int]:
    """These nodes and all under them."""
    found: set[int] = set()
    waiting = [*roots]
    while waiting:
        index = waiting.pop()
        if index not in found:
            found.add(index)
            waiting += nodes[index].get("children", [])
    return found


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
