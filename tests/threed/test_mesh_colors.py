"""Colours of mesh files as other programs write them, and of ours as those read them."""

import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial, SimpleMaterial

from pcs_ext.threed.cameras import ring
from pcs_ext.threed.export import export_3d
from pcs_ext.threed.mesh import read_mesh, write_mesh
from pcs_ext.threed.mesh_views import Paint, render_mesh, texture_colors
from pcs_ext.threed.rasterize import Fragments

RED, HALF = [255, 0, 0, 255], 188  # 188 of 255 in sRGB's curve is half of the light


def block(place: float) -> Any:
    mesh = trimesh.creation.box((1, 1, 1))
    mesh.apply_translation([place, 0, 0])
    return mesh


def plain(place: float, factor: list[float] | None) -> Any:
    mesh = block(place)
    mesh.visual = TextureVisuals(material=PBRMaterial(baseColorFactor=factor))
    return mesh


def pictured(place: float, color: tuple[int, int, int], **more: Any) -> Any:
    mesh = block(place)
    uv = np.random.default_rng(0).random((len(mesh.vertices), 2))
    material = PBRMaterial(baseColorTexture=Image.new("RGB", (8, 8), color), **more)
    mesh.visual = TextureVisuals(uv=uv, material=material)
    return mesh


def colored(place: float, low: list[int], high: list[int]) -> Any:
    """Colours by height, as trimesh writes them: bytes that stand for light."""
    mesh = block(place)
    colors = np.where(mesh.vertices[:, 2:] > 0, high, low).astype(np.uint8)
    mesh.visual = ColorVisuals(mesh, vertex_colors=colors)
    return mesh


def reread(path: Path, *parts: Any) -> Any:
    data: Any = trimesh.Scene(list(parts)).export(file_type="glb")
    path.write_bytes(data)
    return read_mesh(path)


def shown(mesh: Any) -> dict[int, np.ndarray]:
    """Colours at the middles of faces, `n 3` of 0 to 255, by the block they lie on."""
    middles = torch.full((1, len(mesh.faces), 3), 1 / 3)
    seen = Fragments(face=torch.arange(len(mesh.faces))[None], barycentric=middles)
    colors = (Paint(mesh)(seen, torch.from_numpy(np.array(mesh.faces)))[0] * 255).numpy()
    # File axes have x to the right, as the world has.
    blocks = np.round(np.asarray(mesh.triangles_center)[:, 0] / 3).astype(int)
    return {number: colors[blocks == number] for number in np.unique(blocks).tolist()}


def test_parts_without_pictures_keep_their_colors(tmp_path: Path) -> None:
    mesh = reread(tmp_path / "a.glb", block(0), plain(3, [1.0, 0, 0, 1]), colored(6, RED, RED), plain(9, None))
    assert mesh.visual.kind == "vertex"
    found = shown(mesh)
    for number, color in enumerate(([255] * 3, RED[:3], RED[:3], [255] * 3)):
        np.testing.assert_allclose(found[number], np.tile(color, (12, 1)), atol=0.1)


def test_parts_beside_one_with_a_picture_keep_their_colors(tmp_path: Path) -> None:
    blue = [0, 0, 255, 255]
    mesh = reread(
        tmp_path / "a.glb", block(0), plain(3, [1.0, 0, 0, 1]), pictured(6, (10, 200, 30)), colored(9, RED, blue)
    )
    assert mesh.visual.kind == "texture"
    found = shown(mesh)
    for number, color in enumerate(([255] * 3, RED[:3], [10, 200, 30])):
        np.testing.assert_allclose(found[number], np.tile(color, (12, 1)), atol=1)
    ends = found[3][np.abs(found[3][:, 0] - 127) > 100]
    assert {tuple(row) for row in ends.round().astype(int).tolist()} == {(255, 0, 0), (0, 0, 255)}
    assert len(found[3]) - len(ends) == 8  # the sides, where one becomes the other


@pytest.mark.parametrize("alone", [True, False])
def test_factors_go_into_the_pictures(alone: bool, tmp_path: Path) -> None:
    maps = Image.new("RGB", (8, 8), (0, 200, 100))
    factors = {"baseColorFactor": [0.5, 1.0, 0.0, 1.0], "roughnessFactor": 0.5, "metallicFactor": 0.25}
    tinted = pictured(0, (255, 255, 255), metallicRoughnessTexture=maps, **factors)
    mesh = reread(tmp_path / "a.glb", tinted, *([] if alone else [pictured(3, (0, 0, 255))]))
    np.testing.assert_allclose(shown(mesh)[0], np.tile([HALF, 255, 0], (12, 1)), atol=1)
    material = mesh.visual.material
    assert material.baseColorFactor is None
    if alone:
        assert (material.roughnessFactor, material.metallicFactor) == (1.0, 1.0)
        assert material.metallicRoughnessTexture.getpixel((0, 0)) == (0, 100, 25)
    else:
        np.testing.assert_allclose(shown(mesh)[1], np.tile([0, 0, 255], (12, 1)), atol=1)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("material", [True, False])
def test_colors_of_vertices_are_light_of_any_width(kind: Any, material: bool, tmp_path: Path) -> None:
    mesh = plain(0, [1.0, 0.5, 1.0, 1.0]) if material else block(0)
    top = 1 if kind == np.float32 else np.iinfo(kind).max
    mesh.vertex_attributes["_COLOR_0"] = np.tile(np.array([0.5, 1, 0, 1]) * top, (8, 1)).astype(kind)

    def named(document: dict[str, Any]) -> None:
        attributes = document["meshes"][0]["primitives"][0]["attributes"]
        attributes["COLOR_0"] = attributes.pop("_COLOR_0")

    (tmp_path / "a.glb").write_bytes(mesh.export(file_type="glb", tree_postprocessor=named))
    colors = np.asarray(read_mesh(tmp_path / "a.glb").visual.vertex_colors).astype(int)
    assert np.abs(colors - [HALF, HALF if material else 255, 0, 255]).max() <= 1


def test_a_glb_holds_light_and_no_metal(tmp_path: Path) -> None:
    mesh = colored(0, [188, 10, 0, 255], [1, 99, 255, 128])
    write_mesh(mesh, tmp_path / "a.glb")
    data = (tmp_path / "a.glb").read_bytes()
    (length,) = struct.unpack("<I", data[12:16])
    document = json.loads(data[20 : 20 + length])
    accessor = document["accessors"][document["meshes"][0]["primitives"][0]["attributes"]["COLOR_0"]]
    assert (accessor["componentType"], accessor["type"]) == (5126, "VEC4")
    start = 28 + length + document["bufferViews"][accessor["bufferView"]]["byteOffset"]
    values = np.frombuffer(data[start:], "<f4", 4 * accessor["count"]).reshape(-1, 4)
    assert np.abs(values[:, 0] - 0.5).min() < 0.01
    assert document["materials"][0]["pbrMetallicRoughness"]["metallicFactor"] == 0
    np.testing.assert_array_equal(read_mesh(tmp_path / "a.glb").visual.vertex_colors, mesh.visual.vertex_colors)


def test_an_obj_with_a_picture_becomes_no_metal(tmp_path: Path) -> None:
    mesh = block(0)
    material = SimpleMaterial(image=Image.new("RGB", (8, 8), (10, 200, 30)), diffuse=[0, 0, 0, 255])
    mesh.visual = TextureVisuals(uv=np.full((8, 2), 0.5), material=material)
    write_mesh(mesh, tmp_path / "a.glb")
    (found,) = trimesh.load_scene(tmp_path / "a.glb").geometry.values()
    assert found.visual.material.metallicFactor == 0
    assert found.visual.material.baseColorFactor is None
    assert found.visual.material.baseColorTexture.getpixel((0, 0))[:3] == (10, 200, 30)
    np.testing.assert_allclose(shown(read_mesh(tmp_path / "a.glb"))[0], np.tile([10, 200, 30], (12, 1)), atol=0.1)


def test_pictures_repeat_beyond_their_edges(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (4, 6, 3), dtype=np.uint8)
    mesh = block(0)
    # On texels' middles, some of them whole pictures away.
    columns, rows, away = np.arange(8) % 6, np.arange(8) % 4, np.arange(8) % 5 - 2
    uv = np.stack([(columns + 0.5) / 6 + away, 1 - (rows + 0.5) / 4 - away], 1)
    mesh.visual = TextureVisuals(uv=uv, material=PBRMaterial(baseColorTexture=Image.fromarray(pixels)))
    write_mesh(mesh, tmp_path / "a.glb")
    export_3d(tmp_path / "a.glb", tmp_path / "a.ply")
    found = read_mesh(tmp_path / "a.ply")
    assert found.vertices == pytest.approx(mesh.vertices, abs=1e-5)
    np.testing.assert_array_equal(found.visual.vertex_colors[:, :3], pixels[rows, columns])
    export_3d(tmp_path / "a.glb", tmp_path / "a.usdz")
    with zipfile.ZipFile(tmp_path / "a.usdz") as archive:
        assert archive.read("scene.usda").count(b'= "repeat"') == 2
    corners = Fragments(face=torch.arange(12)[None], barycentric=torch.tensor([1.0, 0, 0]).expand(1, 12, 3))
    seen = Paint(mesh)(corners, torch.from_numpy(np.array(mesh.faces)))[0] * 255
    first = mesh.faces[:, 0]
    np.testing.assert_allclose(seen.numpy(), pixels[rows, columns][first], atol=0.1)


def test_a_picture_goes_on_across_its_edge() -> None:
    texture = torch.tensor([[[[0.0, 1.0]]]])
    places = torch.tensor([[[0.25, 0.5], [0.5, 0.5], [0.75, 0.5], [1.0, 0.5], [2.125, 0.5], [-0.25, 3.5]]])
    assert texture_colors(texture, places)[0, :, 0].tolist() == pytest.approx([0, 0.5, 1, 0.5, 0.25, 1])


def test_a_repeated_picture_repeats_beside_other_parts(tmp_path: Path) -> None:
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 32:] = 255
    mesh = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [0, 1, 0.0]], [[0, 1, 2]], process=False)
    uv = [[-1, 0], [2, 0], [-1, 1.0]]
    mesh.visual = TextureVisuals(uv=uv, material=PBRMaterial(baseColorTexture=Image.fromarray(pixels)))
    found = reread(tmp_path / "a.glb", mesh, plain(3, [1.0, 0, 0, 1]))
    (face,) = [index for index, middle in enumerate(found.triangles_center) if middle[0] < 1]
    along = torch.tensor([0.25, 0.75, 1.25, 1.75, 2.25, 2.75]) / 3
    first = int(np.argmin(np.linalg.norm(found.triangles[face] - found.triangles[face].min(0), axis=1)))
    assert first == 0
    weights = torch.stack([1 - along - 0.01, along, torch.full_like(along, 0.01)], -1)[None]
    seen = Paint(found)(
        Fragments(face=torch.full((1, 6), face), barycentric=weights), torch.from_numpy(np.array(found.faces))
    )
    assert seen[0, :, 0].round().tolist() == [0, 1, 0, 1, 0, 1]


def test_colors_of_faces_are_seen_where_they_are(tmp_path: Path) -> None:
    path, mesh = tmp_path / "box.ply", block(0.0)
    colors = np.tile(np.array(RED, np.uint8), (12, 1))
    colors[np.asarray(mesh.face_normals)[:, 1] < -0.5] = (0, 0, 255, 255)  # its front
    mesh.visual = ColorVisuals(mesh, face_colors=colors)
    path.write_bytes(mesh.export(file_type="ply"))
    found = read_mesh(path)
    assert found.visual.kind == "face"
    seen = render_mesh(found, ring(2, elevation=0.0, target=(0.0, 0.0, 0.0)), 16, 16, lit=False)
    assert seen[0, :, 8, 8].tolist() == [0.0, 0.0, 1.0]
    assert seen[1, :, 8, 8].tolist() == [1.0, 0.0, 0.0]
