"""Mesh files as other programs write them: read as those show them, or refused."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh

from pcs_ext.errors import InputError
from pcs_ext.threed.mesh import read_mesh


def changed(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A GLB with another JSON chunk."""
    data = path.read_bytes()
    (length,) = struct.unpack("<I", data[12:16])
    document = json.loads(data[20 : 20 + length])
    change(document)
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    rest = data[20 + length :]
    path.write_bytes(struct.pack("<5I", 0x46546C67, 2, 20 + len(text) + len(rest), len(text), 0x4E4F534A) + text + rest)
    return path


@pytest.fixture
def box(tmp_path: Path) -> Path:
    path = tmp_path / "box.glb"
    data: Any = trimesh.creation.box((1, 2, 3)).export(file_type="glb")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("KHR_draco_mesh_compression", "compressed with Draco; export it without compression"),
        ("EXT_meshopt_compression", "compressed with meshopt"),
        ("KHR_mesh_quantization", "KHR_mesh_quantization"),
        ("EXT_of_somebody", "needs the extension EXT_of_somebody"),
        ("KHR_materials_unlit", None),
    ],
)
def test_required_extensions_are_read_or_named(box: Path, name: str, match: str | None) -> None:
    changed(box, lambda document: document.update(extensionsRequired=[name]))
    if match is None:
        assert read_mesh(box).volume == pytest.approx(6)
        return
    with pytest.raises(InputError, match=match):
        read_mesh(box)


def test_storage_that_would_be_misread_is_refused(box: Path) -> None:
    whole = box.read_bytes()

    def position(document: dict[str, Any]) -> dict[str, Any]:
        return document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["POSITION"]]

    def moved(document: dict[str, Any]) -> None:
        move = {"extensions": {"KHR_texture_transform": {"scale": [2, 2]}}}
        document["materials"] = [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0, **move}}}]

    for change, match in (
        (lambda document: position(document).update(sparse={"count": 1}), "sparse accessors"),
        (lambda document: position(document).update(componentType=5122), "positions as floats"),
        (lambda document: position(document).pop("bufferView"), "expected plain positions"),
        (moved, "KHR_texture_transform"),
    ):
        box.write_bytes(whole)
        with pytest.raises(InputError, match=match):
            read_mesh(changed(box, change))


@pytest.mark.parametrize("kind", ["glb", "obj", "ply"])
def test_broken_numbers_are_refused(tmp_path: Path, kind: str) -> None:
    path, mesh = tmp_path / f"bad.{kind}", trimesh.creation.box((1, 2, 3))
    corners, faces = np.array(mesh.vertices), np.array(mesh.faces)
    for broken, match in (
        ((corners[3:4] * np.nan, faces[:1]), "finite coordinates"),
        ((corners[:4], faces), "expected"),
    ):
        places = np.concatenate([broken[0], corners]) if match != "expected" else broken[0]
        bad = trimesh.Trimesh(places, broken[1], process=False, validate=False)
        options: dict[str, Any] = {"vertex_normal" if kind == "ply" else "include_normals": False}
        data: Any = bad.export(file_type=kind, **options)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        with pytest.raises(InputError, match=match):
            read_mesh(path)
