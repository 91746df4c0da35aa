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
from pcs_ext.threed.mesh import read_mesh, write_mesh
from pcs_ext.threed.outputs import check_files
from pcs_ext.threed.polygons import ears, normals, turns_inward


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


def textured_glb(folder: Path) -> Path:
    """The sheet of `sheet_obj` as a GLB."""
    path, scene = folder / "sheet.glb", trimesh.load_scene(sheet_obj(folder, "wood.png"))
    data: Any = scene.export(file_type="glb")
    path.write_bytes(data)
    return path


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
    with pytest.raises(InputError, match="neither beside the OBJ nor below it"):
        read_mesh(path)


def test_a_picture_that_is_missing_is_told_where_faces_are_made_of_it(tmp_path: Path) -> None:
    path = sheet_obj(tmp_path, "wood.png")
    (tmp_path / "wood.png").unlink()
    with pytest.raises(InputError, match=r"material 'sheet' has the picture 'wood.png'.*delete the line map_Kd"):
        read_mesh(path)
    path.write_text(path.read_text().replace("usemtl sheet", "usemtl other"))
    assert len(read_mesh(path).faces) == 2


def test_coordinates_that_a_picture_is_laid_out_by_are_read(tmp_path: Path) -> None:
    path = textured_glb(tmp_path)
    before = np.asarray(read_mesh(path).visual.uv)

    def second(document: dict[str, Any]) -> None:
        primitive = document["meshes"][0]["primitives"][0]
        primitive["attributes"]["TEXCOORD_1"] = primitive["attributes"]["TEXCOORD_0"]
        primitive["attributes"]["TEXCOORD_0"] = len(document["accessors"])
        document["accessors"].append(document["accessors"][primitive["attributes"]["TEXCOORD_1"]] | {"byteOffset": 8})
        document["accessors"][-1]["count"] -= 1
        document["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]["texCoord"] = 1

    assert np.array_equal(np.asarray(read_mesh(changed(path, second)).visual.uv), before)

    def mixed(document: dict[str, Any]) -> None:
        document["materials"][0]["normalTexture"] = {"index": 0, "texCoord": 0}

    with pytest.raises(InputError, match=r"different sets of texture coordinates \(0, 1\)"):
        read_mesh(changed(path, mixed))


def test_a_skinned_mesh_stands_where_its_joints_hold_it(box: Path) -> None:
    """Exporters put it below an armature's node, scaled to centimetres, say; that node does not move its corners."""

    def skinned(document: dict[str, Any]) -> None:
        (mesh,) = [node for node in document["nodes"] if "mesh" in node]
        mesh.update(skin=0, translation=[5, 5, 5])
        document["nodes"].append({"scale": [0.01] * 3, "children": [document["nodes"].index(mesh)]})
        document["scenes"] = [{"nodes": [len(document["nodes"]) - 1]}]
        document["skins"] = [{"joints": [len(document["nodes"]) - 1]}]

    whole = read_mesh(box)
    found = read_mesh(changed(box, skinned))
    assert np.allclose(found.bounds, whole.bounds)
    assert found.volume == pytest.approx(6)


# A triangle, an L that turns inward and an arrow head that does: 1/2 + 3 + 1/2 of area.
CORNERS = [
    (5, 0, 0), (6, 0, 0), (5, 1, 0),
    (0, 2, 0), (0, 0, 0), (2, 0, 0), (2, 1, 0), (1, 1, 0), (1, 2, 0),
    (8, 0, 0), (10, 0, 0), (8, 2, 0), (8.5, 0.5, 0),
]  # fmt: skip
FACES = [(0, 1, 2), (3, 4, 5, 6, 7, 8), (9, 10, 12, 11)]
AREAS = [0.5, 3.0, 1.0]


def ply(order: str, *, marked: bool = True) -> bytes:
    """Those faces with a float before their list and a colour behind it, and an element of another kind at the end."""
    form = {"a": "ascii", "<": "binary_little_endian", ">": "binary_big_endian"}[order]
    before, behind = ("property float quality\n", "property uchar red\n") if marked else ("", "")
    header = (
        f"ply\nformat {form} 1.0\nelement vertex 13\nproperty float x\nproperty float y\nproperty float z\n"
        f"element face 3\n{before}property list uchar int vertex_indices\n{behind}element edge 1\n"
        "property int vertex1\nproperty int vertex2\nend_header\n"
    ).encode()
    rows: list[bytes] = []
    for number, face in enumerate(FACES):
        words = [*([0.5] if marked else []), len(face), *face, *([number] if marked else [])]
        letters = ("f" if marked else "") + "B" + "i" * len(face) + ("B" if marked else "")
        rows.append(" ".join(map(str, words)).encode() if order == "a" else struct.pack(order + letters, *words))
    if order == "a":
        return header + b"\n".join([*(" ".join(map(str, row)).encode() for row in CORNERS), *rows, b"0 1", b""])
    body = b"".join(struct.pack(f"{order}3f", *row) for row in CORNERS) + b"".join(rows)
    return header + body + struct.pack(f"{order}2i", 0, 1)


def obj(relative: bool) -> bytes:
    lines = ["v " + " ".join(map(str, row)) for row in CORNERS]
    lines += ["f " + " ".join(str(i - 13 if relative else i + 1) for i in face) for face in FACES]
    return "\n".join([*lines[:-1], lines[-1].replace(" ", " \\\n ", 1)]).encode()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.ply", ply("a")), ("b.ply", ply("<")), ("c.ply", ply(">")), ("d.ply", ply("<", marked=False)),
        ("e.obj", obj(False)), ("f.obj", obj(True)),
    ],
)  # fmt: skip
def test_faces_of_many_corners_cover_what_they_enclose(name: str, data: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    mesh = read_mesh(tmp_path / name)
    assert len(mesh.faces) == 1 + 4 + 2
    corners = np.asarray(mesh.vertices)[np.asarray(mesh.faces)]
    turns = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    if name.endswith("obj"):
        turns = turns @ np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]])  # y up became z up
    assert (turns[:, 2] > 0).all(), "a triangle looks the other way"
    at = np.digitize(corners[:, :, 0].mean(1), (3, 7))
    areas = {part: float(np.linalg.norm(turns[at == part], axis=1).sum()) / 2 for part in (1, 0, 2)}
    assert [*areas.values()] == pytest.approx(AREAS)


def test_ears_of_any_outline_cover_it() -> None:
    generator = np.random.default_rng(0)
    for count in (4, 5, 7, 12, 40):
        for _ in range(20):
            # A star around a point: never crosses itself, turned into any plane.
            angles = (np.arange(count) + generator.uniform(0.1, 0.9, count)) * 2 * np.pi / count
            radii = generator.uniform(0.2, 1, count)
            flat = np.stack([radii * np.cos(angles), radii * np.sin(angles), np.zeros(count)], 1)
            turn = np.linalg.qr(generator.normal(size=(3, 3)))[0]
            outline = flat @ turn.T + generator.normal(size=3)
            parts = np.array(ears(outline))
            assert parts.shape == (count - 2, 3)
            area = np.linalg.norm(normals(outline[None])[0]) / 2
            ears_area = np.linalg.norm(normals(outline[parts]), axis=1).sum() / 2
            assert ears_area == pytest.approx(area)
    places = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0.2, 0.2, 0], [np.inf, 0, 0]], float)
    faces = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [0, 1, 4, 3], [0, 1, 2, 9], [0, 1, 5, 3]])
    assert turns_inward(places, faces)[:4].tolist() == [False, False, True, False]


def test_colors_beside_texture_coordinates_of_a_ply_stay(tmp_path: Path) -> None:
    header = "ply\nformat ascii 1.0\nelement vertex 3\n" + "".join(
        f"property {kind} {name}\n"
        for kind, names in (("float", "x y z s t"), ("uchar", "red green blue alpha"))
        for name in names.split()
    )
    rows = [f"{x} {y} 0 {x} {y} 255 128 0 255" for x, y in ((0, 0), (1, 0), (0, 1))]
    text = (
        header
        + "element face 1\nproperty list uchar int vertex_indices\nend_header\n"
        + "\n".join(rows)
        + "\n3 0 1 2\n"
    )
    (tmp_path / "blender.ply").write_text(text)
    assert np.asarray(read_mesh(tmp_path / "blender.ply").visual.vertex_colors)[0].tolist() == [255, 128, 0, 255]


def test_what_is_no_sound_ply_ends_in_an_error(tmp_path: Path) -> None:
    whole = ply("<")
    for data in (whole[:-40], whole[:200], whole.replace(b"face 3", b"face 999999999"), b"ply\nend_header\n"):
        (tmp_path / "a.ply").write_bytes(data)
        with pytest.raises(InputError):
            read_mesh(tmp_path / "a.ply")


@pytest.mark.parametrize(
    "change", [{"materials": [5]}, {"meshes": 3}, {"accessors": {}}, {"extensionsRequired": 7}, {"meshes": [{}]}]
)
def test_a_glb_whose_json_is_of_another_shape_is_refused(box: Path, change: dict[str, Any]) -> None:
    changed(box, lambda document: document.update(change))
    with pytest.raises(InputError, match="could not read it"):
        read_mesh(box)


def test_words_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    for text in ("v 0 0\nv 1 0 0\nf 1 2 3 4\n", "v 0 0 0\nf a b c d\n", f"v 0 0 0\nf 1 1 1 {9**40}\n"):
        (tmp_path / "a.obj").write_text(text)
        with pytest.raises(InputError):
            read_mesh(tmp_path / "a.obj")


_HEAD = b"ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\n"
_CORNERS = b"0 0 0\n1 0 0\n0 1 0\n"


def glb_of(text: bytes) -> bytes:
    """A GLB of this JSON, whatever it is."""
    text += b" " * (-len(text) % 4)
    return struct.pack("<5I", 0x46546C67, 2, 20 + len(text), len(text), 0x4E4F534A) + text


@pytest.mark.parametrize(
    ("name", "data", "match"),
    [
        ("flat.obj", b"v 0 0\nv 1 0\nv 0 1\nf 1 2 3\n", "expected three numbers each"),
        ("nameless.ply", _HEAD + b"element face 1\nproperty int a\nend_header\n" + _CORNERS + b"3\n", "could not read"),
        ("deep.glb", glb_of(b"[" * 100_000), "could not read it"),
        ("apart.glb", glb_of(json.dumps({"asset": {"version": "2.0"}, "buffers": [{"uri": "a.bin", "byteLength": 9}]})
                             .encode()), "could not read it"),
    ],
)  # fmt: skip
def test_damage_ends_in_a_message(tmp_path: Path, name: str, data: bytes, match: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(InputError, match=match):
        read_mesh(path)


@pytest.mark.parametrize("change", ["few places", "no bytes"])
def test_numbers_that_do_not_belong_together_are_refused(tmp_path: Path, change: str) -> None:
    path, mesh = tmp_path / "sheet.glb", read_mesh(sheet_obj(tmp_path, "wood.png"))
    write_mesh(mesh, path)

    def broken(document: dict[str, Any]) -> None:
        index = document["meshes"][0]["primitives"][0]["attributes"]["TEXCOORD_0"]
        if change == "few places":
            document["accessors"][index]["count"] = 3
        else:
            document["bufferViews"][document["accessors"][index]["bufferView"]]["byteLength"] = 7

    changed(path, broken)
    with pytest.raises(InputError, match=r"sheet\.glb: expected a glb mesh, could not read it"):
        read_mesh(path)


def test_faces_without_a_place_in_their_picture_are_refused(tmp_path: Path) -> None:
    path = sheet_obj(tmp_path, "wood.png")
    text = path.read_text()
    path.write_text(text + "f 1 2 3\n")
    with pytest.raises(InputError, match="some faces of the material 'sheet' have no place in its picture"):
        read_mesh(path)
    path.write_text(text + "f 1/1 2/2 \\\n3/3\nusemtl none\nf 1 2 3\n")
    assert read_mesh(path).visual.kind == "texture"
