"""USDZ, OBJ and splats, taken apart by hand and by readers that are not ours."""

import io
import re
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from torch import Tensor
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial

from pcs_ext.errors import UsageError
from pcs_ext.threed.export import export_3d
from pcs_ext.threed.mesh import read_mesh, write_mesh
from pcs_ext.threed.splat_ply import mesh_splat_bytes
from pcs_ext.threed.texture import TextureConfig, bake_texture
from pcs_ext.threed.usdz import stored_aligned


def two_tone(places: Tensor, normals: Tensor) -> Tensor:
    """Red above, blue below, rough and dull or smooth and metallic."""
    above = (places[:, 2:] > 0).float()
    return torch.cat([above, torch.zeros_like(above), 1 - above, 0.25 + 0.5 * above, 1 - above], 1)


@pytest.fixture
def painted() -> Any:
    """A ball with both maps."""
    return bake_texture(trimesh.creation.icosphere(2), two_tone, TextureConfig())


@pytest.fixture
def colored() -> Any:
    """A box, every corner another colour."""
    mesh: Any = trimesh.creation.box((1, 2, 3))
    colors = np.concatenate([np.random.default_rng(0).integers(0, 255, (8, 3)), np.full((8, 1), 255)], 1)
    mesh.visual.vertex_colors = colors.astype(np.uint8)
    return mesh


def numbers(stage: str, name: str, width: int) -> np.ndarray:
    """The array of a stage's property."""
    (found,) = re.findall(rf"{re.escape(name)} = \[(.*?)\]", stage)
    return np.array(re.findall(r"-?[\d.]+(?:e-?\d+)?", found), dtype=float).reshape(-1, width)


def test_a_usdz_is_a_stored_zip_whose_files_begin_at_multiples_of_64(painted: Any, tmp_path: Path) -> None:
    write_mesh(painted, tmp_path / "ball.usdz")
    data = (tmp_path / "ball.usdz").read_bytes()
    with zipfile.ZipFile(tmp_path / "ball.usdz") as archive:
        assert archive.testzip() is None
        entries = archive.infolist()
        assert [entry.filename for entry in entries] == ["scene.usda", "textures/color.png", "textures/maps.png"]
        for entry in entries:
            assert entry.compress_type == zipfile.ZIP_STORED
            name, extra = struct.unpack("<HH", data[entry.header_offset + 26 : entry.header_offset + 30])
            start = entry.header_offset + 30 + name + extra
            assert start % 64 == 0
            assert data[start : start + entry.file_size] == archive.read(entry)
    write_mesh(painted, tmp_path / "again.usdz")
    assert (tmp_path / "again.usdz").read_bytes() == data


def test_padding_fits_names_of_every_length() -> None:
    for length in range(1, 70):
        files = {"a" * length: b"x" * length, "b": b"y"}
        with zipfile.ZipFile(io.BytesIO(stored_aligned(files))) as archive:
            assert {name: archive.read(name) for name in archive.namelist()} == files


def test_a_usdz_holds_the_mesh_y_up_with_its_texture_right_side_up(painted: Any, tmp_path: Path) -> None:
    write_mesh(painted, tmp_path / "ball.usdz")
    with zipfile.ZipFile(tmp_path / "ball.usdz") as archive:
        stage = archive.read("scene.usda").decode()
        picture, maps = (
            np.asarray(Image.open(io.BytesIO(archive.read(f"textures/{name}.png")))) for name in ("color", "maps")
        )
    assert stage.count("{") == stage.count("}")
    assert 'upAxis = "Y"' in stage
    points, faces = numbers(stage, "point3f[] points", 3), numbers(stage, "int[] faceVertexIndices", 3).astype(int)
    again = trimesh.Trimesh(points, faces, process=True)
    assert again.volume == pytest.approx(painted.volume, rel=1e-3)
    places = numbers(stage, "texCoord2f[] primvars:st", 2)[faces].mean(1)
    height, width = picture.shape[:2]
    rows, columns = ((1 - places[:, 1]) * height).astype(int), (places[:, 0] * width).astype(int)
    middle = points[faces].mean(1)
    clear = np.abs(middle[:, 1]) > 0.2  # y is up now
    above = middle[clear, 1] > 0
    seen, rough = picture[rows, columns][clear], maps[rows, columns][clear]
    assert (seen[above] == (255, 0, 0)).all()
    assert (seen[~above] == (0, 0, 255)).all()
    assert np.abs(rough[above][:, 1] / 255 - 0.75).max() < 0.02
    assert (rough[~above][:, 2] == 255).all()


@pytest.mark.parametrize("layout", ["grid", "xatlas"])
def test_a_texture_cuts_no_edges_into_the_shading(layout: Any, tmp_path: Path) -> None:
    ball = bake_texture(trimesh.creation.icosphere(3), two_tone, TextureConfig(layout=layout))
    write_mesh(ball, tmp_path / "ball.glb")
    export_3d(tmp_path / "ball.glb", tmp_path / "again.glb")
    for name in ("ball.glb", "again.glb"):
        (found,) = trimesh.load_scene(tmp_path / name, process=False).geometry.values()
        assert len(found.vertices) > 1.2 * len(trimesh.creation.icosphere(3).vertices)
        np.testing.assert_allclose(found.vertex_normals, found.vertices, atol=0.01)


def test_an_obj_stands_upright_and_its_faces_hang_together(painted: Any, tmp_path: Path) -> None:
    write_mesh(painted, tmp_path / "my ball.obj")
    rows: dict[str, list[list[str]]] = {}
    for line in (tmp_path / "my ball.obj").read_text().splitlines():
        rows.setdefault(line.split()[0], []).append(line.split()[1:])
    ball = trimesh.creation.icosphere(2)
    corners, places = (np.array(rows[key], dtype=float) for key in ("v", "vt"))
    faces = np.array([[corner.split("/") for corner in face] for face in rows["f"]], dtype=int) - 1
    assert len(corners) == len(ball.vertices)
    assert len(faces) == len(ball.faces)
    # Every edge has its two faces: what modelling programs need to smooth, select and sculpt.
    edges = np.sort(np.concatenate([faces[:, [i, (i + 1) % 3], 0] for i in range(3)]), axis=1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
    normals = np.array(rows["vn"], dtype=float)[faces[..., 2]]
    np.testing.assert_allclose(normals, corners[faces[..., 0]], atol=0.05)
    # y is up: red above, rough and dull; blue below, smooth and metallic.
    above = corners[faces[..., 0]].mean(1)[:, 1] > 0.2
    below = corners[faces[..., 0]].mean(1)[:, 1] < -0.2
    assert (tmp_path / "my ball.mtl").read_text().splitlines()[-3:] == [
        "map_Kd my ball.png", "map_Pr my ball_roughness.png", "map_Pm my ball_metalness.png"
    ]  # fmt: skip
    for name, upper, lower in (("", [255, 0, 0], [0, 0, 255]), ("_roughness", 191, 64), ("_metalness", 0, 255)):
        picture = np.asarray(Image.open(tmp_path / f"my ball{name}.png")).astype(int)
        middles = places[faces[..., 1]].mean(1) * picture.shape[0]
        seen = picture[-1 - middles[:, 1].astype(int), middles[:, 0].astype(int)]
        assert np.abs(seen[above] - upper).max() <= 1
        assert np.abs(seen[below] - lower).max() <= 1


def test_vertex_colors_become_light(colored: Any, tmp_path: Path) -> None:
    write_mesh(colored, tmp_path / "box.usdz")
    with zipfile.ZipFile(tmp_path / "box.usdz") as archive:
        stage = archive.read("scene.usda").decode()
        assert archive.namelist() == ["scene.usda"]
    light = numbers(stage, "color3f[] primvars:displayColor", 3)
    encoded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    assert np.abs(encoded * 255 - colored.visual.vertex_colors[:, :3]).max() < 0.6


def test_splats_lie_flat_on_their_faces(colored: Any, tmp_path: Path) -> None:
    (tmp_path / "box.ply").write_bytes(mesh_splat_bytes(colored))
    loaded = trimesh.load(tmp_path / "box.ply")
    table = loaded.metadata["_ply_raw"]["vertex"]["data"]
    assert len(table) == len(colored.faces)
    assert len(table.dtype.names) == 62
    places = np.stack([table[axis].squeeze() for axis in "xyz"], 1)
    np.testing.assert_allclose(places, colored.triangles_center, atol=1e-6)
    w, x, y, z = (table[f"rot_{index}"].squeeze() for index in range(4))
    # The third column of the rotation: where the thin direction points.
    thin = np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], 1)
    np.testing.assert_allclose(thin, colored.face_normals, atol=1e-5)
    scales = np.exp(np.stack([table[f"scale_{index}"].squeeze() for index in range(3)], 1))
    assert (scales[:, 2] < 0.2 * scales[:, 0]).all()
    colors = 0.5 + 0.28209479177387814 * np.stack([table[f"f_dc_{index}"].squeeze() for index in range(3)], 1)
    expected = colored.visual.vertex_colors[:, :3][colored.faces].mean(1) / 255
    np.testing.assert_allclose(colors, expected, atol=1e-5)
    opacity = 1 / (1 + np.exp(-table["opacity"].squeeze()))
    np.testing.assert_allclose(opacity, 0.98, atol=1e-4)


def test_files_become_splats_and_usdz(painted: Any, tmp_path: Path) -> None:
    write_mesh(painted, tmp_path / "ball.glb")
    export_3d(tmp_path / "ball.glb", tmp_path / "ball.usdz")
    assert zipfile.is_zipfile(tmp_path / "ball.usdz")
    assert export_3d(tmp_path / "ball.glb", tmp_path / "splats.ply", splats=True) == [tmp_path / "splats.ply"]
    count = len(read_mesh(tmp_path / "ball.glb").faces)
    assert f"element vertex {count}\n".encode() in (tmp_path / "splats.ply").read_bytes()[:60]
    with pytest.raises(UsageError, match=r"a file name that ends in ply"):
        export_3d(tmp_path / "ball.glb", tmp_path / "splats.glb", splats=True)


@pytest.mark.parametrize("places", [True, False])
def test_a_material_of_one_color_becomes_colors_of_vertices(places: bool, tmp_path: Path) -> None:
    mesh: Any = trimesh.creation.box((1, 2, 3))
    uv = np.random.default_rng(0).random((len(mesh.vertices), 2)) if places else None
    material = PBRMaterial(baseColorFactor=[255, 55, 0, 255])
    mesh.visual = TextureVisuals(uv=uv, material=material)
    (tmp_path / "plain.glb").write_bytes(mesh.export(file_type="glb"))
    # 55 of 255 as light is 128 of 255 in sRGB's curve.
    assert (np.asarray(read_mesh(tmp_path / "plain.glb").visual.vertex_colors) == [255, 128, 0, 255]).all()
    export_3d(tmp_path / "plain.glb", tmp_path / "plain.usdz")
    with zipfile.ZipFile(tmp_path / "plain.usdz") as archive:
        colors = numbers(archive.read("scene.usda").decode(), "color3f[] primvars:displayColor", 3)
    np.testing.assert_allclose(colors, np.tile([1, 0.216, 0], (len(colors), 1)), atol=1e-3)
    for name, splats in (("plain.ply", False), ("splats.ply", True)):
        export_3d(tmp_path / "plain.glb", tmp_path / name, splats=splats)


@pytest.mark.parametrize(("factors", "expected"), [((0.2, 1.0), ("0.2", "1")), ((None, None), ("1", "1"))])
def test_a_usdz_is_as_rough_and_metallic_as_its_glb(
    tmp_path: Path, factors: tuple[float | None, float | None], expected: tuple[str, str]
) -> None:
    picture, (rough, metal) = Image.new("RGB", (8, 8), (255, 0, 0)), factors
    material = PBRMaterial(baseColorTexture=picture, roughnessFactor=rough, metallicFactor=metal)
    mesh = trimesh.creation.box()
    mesh.visual = TextureVisuals(uv=np.zeros((8, 2)), material=material)
    data: Any = mesh.export(file_type="glb")
    (tmp_path / "box.glb").write_bytes(data)
    assert surface_of(tmp_path / "box.glb", tmp_path) == expected
    plain = trimesh.creation.box()
    plain.visual = ColorVisuals(plain, vertex_colors=np.tile([255, 0, 0, 255], (8, 1)))
    write_mesh(plain, tmp_path / "plain.glb")
    assert surface_of(tmp_path / "plain.glb", tmp_path) == ("0.9", "0")


def surface_of(path: Path, folder: Path) -> tuple[str, str]:
    """Roughness and metalness that a USDZ of a mesh says."""
    export_3d(path, folder / f"{path.stem}.usdz")
    with zipfile.ZipFile(folder / f"{path.stem}.usdz") as archive:
        text = archive.read("scene.usda").decode()
    found = [re.search(rf"float inputs:{name} = (\S+)", text) for name in ("roughness", "metallic")]
    assert all(found)
    return tuple(match[1] for match in found if match)  # pyright: ignore[reportReturnType]
