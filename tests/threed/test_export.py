"""What a finished job or a mesh file becomes: other files, films, a page; and what is refused."""

import json
import re
import struct
from base64 import b64decode
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from pcs_ext.cli import main
from pcs_ext.errors import InputError, UsageError
from pcs_ext.threed.export import export_3d, render_3d
from pcs_ext.threed.field_config import FieldConfig, load_field, save_field
from pcs_ext.threed.fields import Blob, HashField, VoxelField
from pcs_ext.threed.mesh import MeshConfig, read_mesh
from pcs_ext.threed.stored import fill, read_tensors
from pcs_ext.threed.surface_colors import surface_colors
from pcs_ext.threed.viewer import write_viewer
from pcs_ext.threed.work import Result, WorkFolder
from pcs_ext.video.clips.read import read_clip


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished job: a ball that is red on one side and green on the other."""
    settings = FieldConfig(resolution=20, blob=Blob(height=40.0, radius=0.6))
    field = settings.build()
    assert isinstance(field, VoxelField)
    with torch.no_grad():
        field.albedo_grid.fill_(-8)
        field.albedo_grid[0, 0, :, :, 10:] = 8  # x above the middle
        field.albedo_grid[0, 1, :, :, :10] = 8
    work = WorkFolder(tmp_path_factory.mktemp("job") / "ball.glb.work", {"what": "ball"})
    save_field(field, settings, work.path / "field" / "field")
    work.finish(Result(field="field/field", mesh=MeshConfig(resolution=24), prompt="a ball"))
    return work.path


@pytest.mark.parametrize("kind", ["voxel", "hash"])
def test_a_field_comes_back_from_disk(tmp_path: Path, kind: str) -> None:
    settings = FieldConfig(kind=kind, resolution=16)  # pyright: ignore[reportArgumentType]
    field = settings.build(seed=3)
    save_field(field, settings, tmp_path / "field")
    found, points = load_field(tmp_path / "field"), torch.rand(50, 3)
    assert isinstance(found, HashField if kind == "hash" else VoxelField)
    assert torch.equal(found.query(points).density, field.query(points).density)
    (tmp_path / "field" / "field.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is damaged"):
        load_field(tmp_path / "field")
    with pytest.raises(InputError, match="holds no field"):
        load_field(tmp_path)


@pytest.mark.parametrize("name", ["ball.glb", "ball.obj", "ball.ply"])
def test_a_job_becomes_every_format_and_a_file_every_other(job: Path, tmp_path: Path, name: str) -> None:
    export_3d(job, tmp_path / name, viewer=False)
    mesh = read_mesh(tmp_path / name)
    assert mesh.visual.kind == ("vertex" if name.endswith("ply") else "texture")
    for ending in ("glb", "obj", "ply"):
        export_3d(tmp_path / name, tmp_path / f"again.{ending}", overwrite=True, viewer=False)
        again = read_mesh(tmp_path / f"again.{ending}")
        assert again.volume == pytest.approx(mesh.volume, rel=1e-3)
        visual = again.visual.to_color() if again.visual.kind == "texture" else again.visual
        colors, side = visual.vertex_colors[:, :3].astype(int), np.asarray(again.vertices)[:, 0]
        assert colors[side > 0.2].mean(0) == pytest.approx([255, 0, 0], abs=4)
        assert colors[side < -0.2].mean(0) == pytest.approx([0, 255, 0], abs=4)


def test_soft_fields_show_what_lies_below() -> None:
    field = VoxelField(32)
    with torch.no_grad():
        field.density_grid.fill_(-20)
        field.density_grid[0, 0, :16] = 1.0  # soft below the middle plane
        field.albedo_grid.fill_(-8)
        field.albedo_grid[0, 0, 15:] = 8  # a red skin, black below it
    top = torch.tensor([[0.0, 0.0, 0.75]])
    soft = surface_colors(field, top, torch.tensor([[0.0, 0, 1]]))
    with torch.no_grad():
        field.density_grid[0, 0, :16] = 500.0
    hard = surface_colors(field, top, torch.tensor([[0.0, 0, 1]]))
    assert hard[0, 0] > 0.9 > 0.7 > soft[0, 0]


def test_commands_film_a_job_and_a_file(job: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["3d", "render", str(job), "-o", str(tmp_path / "turn.mp4"), "--frames", "4", "--side", "33"])
    film = read_clip(tmp_path / "turn.mp4").frames
    assert film.shape == (4, 3, 34, 34)
    # From the front, x grows to the right: red there; from the back it is the other way round.
    front, back = (film[index, :, 14:20, 20:24].float().mean((1, 2)) for index in (0, 2))
    assert front[0] > 150 > 100 > front[1]
    assert back[1] > 150 > 100 > back[0]
    main(["3d", "export", str(job), "-o", str(tmp_path / "ball.glb")])
    main(
        ["3d", "render", str(tmp_path / "ball.glb"), "-o", str(tmp_path / "sheet.png"), "--frames", "6", "--side", "32"]
    )
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * 32, 2 * 32)
        pixels = np.asarray(sheet.convert("RGB")).astype(int)
    assert pixels[16, 22].tolist()[0] > 120 > 60 > pixels[16, 22].tolist()[1]
    assert capsys.readouterr().out.split() == [
        str(tmp_path / name) for name in ("turn.mp4", "ball.glb", "ball.html", "sheet.png")
    ]
    assert not list(tmp_path.glob(".*"))


def test_the_page_holds_the_glb_and_asks_for_nothing(job: Path, tmp_path: Path) -> None:
    export_3d(job, tmp_path / "ball.glb", viewer=False)
    write_viewer(tmp_path / "ball.glb", tmp_path / "page.html", title="<b>ball & co")
    page = (tmp_path / "page.html").read_text()
    found = re.search(r'<script id="model"[^>]*>([^<]*)</script>', page)
    assert found is not None
    data = b64decode(found[1])
    assert data == (tmp_path / "ball.glb").read_bytes()
    assert "<title>&lt;b&gt;ball &amp; co</title>" in page
    assert "default-src 'none'" in page
    assert not re.search(r"https?:|src=|href=", page.replace(found[1], ""))
    assert "$" not in re.sub(r"\$\{", "", page.replace(found[1], ""))
    # What the page relies on: one node without a transform, float positions, a PNG in a buffer view.
    size = struct.unpack_from("<I", data, 12)[0]
    tree = json.loads(data[20 : 20 + size])
    assert all("matrix" not in node and "scale" not in node for node in tree["nodes"])
    assert {"POSITION", "NORMAL", "TEXCOORD_0"} <= tree["meshes"][0]["primitives"][0]["attributes"].keys()
    assert tree["images"][0]["mimeType"] == "image/png"
    (tmp_path / "no.glb").write_bytes(b"PK")
    with pytest.raises(InputError, match="is no GLB"):
        write_viewer(tmp_path / "no.glb", tmp_path / "no.html")


def test_wrong_sources_and_settings_are_refused(job: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no 3D job's folder"):
        render_3d(tmp_path, tmp_path / "a.mp4")
    unfinished = WorkFolder(tmp_path / "b.work", {"what": "b"})
    with pytest.raises(InputError, match="has not finished"):
        export_3d(unfinished.path, tmp_path / "b.glb")
    with pytest.raises(InputError, match="expected an existing file"):
        render_3d(tmp_path / "none.glb", tmp_path / "a.mp4")
    with pytest.raises(UsageError, match="ends in webp, gif, mp4, png"):
        render_3d(job, tmp_path / "a.avi")
    with pytest.raises(UsageError, match="16 to 2048 pixels"):
        render_3d(job, tmp_path / "a.mp4", side=4)
    export_3d(job, tmp_path / "c.ply")
    with pytest.raises(UsageError, match="exists already"):
        export_3d(job, tmp_path / "c.ply")
    with pytest.raises(UsageError, match="keeps its colours and shape"):
        export_3d(tmp_path / "c.ply", tmp_path / "d.glb", colors="grid")
    with pytest.raises(UsageError, match="choose colours, texture size"):
        export_3d(tmp_path / "c.ply", tmp_path / "other.glb", texture_size=64)
    with pytest.raises(UsageError, match="has no meaning with colours at vertices"):
        export_3d(job, tmp_path / "other.glb", colors="vertex", texture_size=64)
    with pytest.raises(UsageError, match="has no meaning with colours at vertices"):
        export_3d(job, tmp_path / "other.ply", texture_size=64)
    with pytest.raises(UsageError, match="splats have one colour each"):
        export_3d(job, tmp_path / "a.ply", splats=True, colors="grid")
    with pytest.raises(UsageError, match="would lose the texture"):
        export_3d(job, tmp_path / "e.ply", colors="grid")
    (tmp_path / "broken.glb").write_bytes(b"glTF and then nothing")
    with pytest.raises(InputError, match="expected a glb mesh"):
        render_3d(tmp_path / "broken.glb", tmp_path / "f.png")


def test_files_beside_the_output_are_not_written_over(job: Path, tmp_path: Path) -> None:
    def refused(source: Path, name: str, match: str, overwrite: bool = False) -> None:
        before = {path: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(UsageError, match=match):
            export_3d(source, tmp_path / name, overwrite=overwrite)
        assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before

    for beside, name in (("a.png", "a.obj"), ("b.mtl", "b.obj"), ("c.html", "c.glb")):
        (tmp_path / beside).write_bytes(b"mine")
        refused(job, name, f"{beside} exists already")
        export_3d(job, tmp_path / name, overwrite=True)
        assert (tmp_path / beside).read_bytes() != b"mine"
    export_3d(job, tmp_path / "c.glb", overwrite=True, viewer=False)
    # What the source needs stays, whatever is asked for.
    refused(tmp_path / "c.glb", "c.glb", "belongs to", overwrite=True)
    lines = (tmp_path / "b.mtl").read_text().replace("b.png", "wood.png")
    (tmp_path / "b.mtl").write_text(lines)
    (tmp_path / "b.png").rename(tmp_path / "wood.png")
    refused(tmp_path / "b.obj", "wood.obj", "wood.png belongs to", overwrite=True)
    export_3d(tmp_path / "b.obj", tmp_path / "d.obj")
    export_3d(tmp_path / "b.obj", tmp_path / "d.obj", overwrite=True)


@pytest.mark.parametrize("change", [{"resolution": -4}, {"resolution": 100_000}, {"threshold": -1.0}])
def test_a_cut_that_cannot_be_made_is_refused(job: Path, tmp_path: Path, change: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="a mesh is cut out of 8 to 1024 samples per side at a density above 0"):
        export_3d(job, tmp_path / "ball.glb", **change)  # pyright: ignore[reportArgumentType]


def test_a_mesh_without_extent_is_not_filmed(tmp_path: Path) -> None:
    path = tmp_path / "point.obj"
    path.write_text("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n")
    with pytest.raises(InputError, match="all corners lie in one point"):
        render_3d(path, tmp_path / "turn.png", frames=1, side=16)
    with pytest.raises(UsageError, match="frames per second"):
        render_3d(path, tmp_path / "turn.png", frames=1, side=16, frames_per_second=0)


def test_tensors_of_a_work_folder_that_are_damaged_are_named(tmp_path: Path) -> None:
    file, module = tmp_path / "field.safetensors", torch.nn.Linear(2, 3)
    with pytest.raises(InputError, match=r"field.safetensors is damaged or incomplete \(it is not there\)"):
        fill(module, file)
    save_file(torch.nn.Linear(2, 4).state_dict(), file)
    with pytest.raises(InputError, match="does not fit what it is read for"):
        fill(module, file)
    save_file(torch.nn.Linear(2, 3).state_dict(), file)
    fill(module, file)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(InputError, match="is damaged or incomplete"):
        read_tensors(file)
