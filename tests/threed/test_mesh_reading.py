"""Mesh files as other programs write them: read as those show them, or refused."""

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from pcs_ext.errors import InputError, UsageError
from pcs_ext.threed.mesh import read_mesh
from pcs_ext.threed.outputs import check_files


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


def sheet_obj(folder: Path, name: str, libraries: str = "mtllib sheet.mtl", *, where: str = "wood.png") -> Path:
    """A square whose material names its picture, half red and half blue, in some way."""
    picture = Image.new("RGB", (8, 8), (255, 0, 0))
    picture.paste((0, 0, 255), (4, 0, 8, 8))
    (folder / where).parent.mkdir(exist_ok=True)
    picture.save(folder / where)
    (folder / "sheet.mtl").write_text(f"newmtl sheet\nKd 1 1 1\nmap_Kd {name}\n")
    corners = "v 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
    (folder / "sheet.obj").write_text(f"{libraries}\n{corners}usemtl sheet\nf 1/1 2/2 3/3 4/4\n")
    return folder / "sheet.obj"


@pytest.mark.parametrize(
    ("name", "where"),
    [
        ("wood.png", "wood.png"),
        ("my wood.png", "my wood.png"),
        ("./textures/wood.png", "textures/wood.png"),
        ("textures\\wood.png", "textures/wood.png"),
        ("C:\\Users\\me\\chair\\wood.png", "wood.png"),
        ("/home/me/chair/wood.png", "wood.png"),
        ("-clamp on -bm 0.5 -blendu off wood.png", "wood.png"),
        ("-s 1 1 1 -o 0 0 0 my wood.png", "my wood.png"),
        ("-mm 0 1 -o 0 -texres 512 1.png", "1.png"),
        ('"wood.png"', "wood.png"),
    ],
)
def test_a_material_names_its_picture_in_many_ways(name: str, where: str, tmp_path: Path) -> None:
    mesh = read_mesh(sheet_obj(tmp_path, name, where=where))
    picture = mesh.visual.material.image
    assert [picture.convert("RGB").getpixel(at) for at in ((1, 4), (6, 4))] == [(255, 0, 0), (0, 0, 255)]


def test_pictures_that_a_material_moves_are_refused(tmp_path: Path) -> None:
    for options in ("-s 2 2", "-o 0.5", "-clamp on -t 0.1 0 0"):
        with pytest.raises(InputError, match="a material moves or scales its picture"):
            read_mesh(sheet_obj(tmp_path, f"{options} wood.png"))


@pytest.mark.parametrize("lines", ["mtllib first.mtl sheet.mtl", "mtllib first.mtl\nmtllib .\\sheet.mtl"])
def test_materials_of_several_files_are_found(lines: str, tmp_path: Path) -> None:
    (tmp_path / "first.mtl").write_text("newmtl other\nKd 0 1 0\n")
    path = sheet_obj(tmp_path, "wood.png", lines)
    assert read_mesh(path).visual.kind == "texture"
    with pytest.raises(UsageError, match=r"wood.png belongs to .*sheet.obj"):
        check_files([tmp_path / "wood.png"], path, overwrite=True)


def test_pictures_outside_of_the_folder_are_not_read(tmp_path: Path) -> None:
    inner = tmp_path / "inner"
    inner.mkdir()
    Image.new("RGB", (8, 8), (1, 2, 3)).save(tmp_path / "secret.png")
    path = sheet_obj(inner, "../secret.png")
    assert read_mesh(path).visual.kind != "texture"
