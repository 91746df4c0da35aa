"""The z-buffer against rays, closed forms and independent readers; textures baked and read back."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from trimesh.visual import TextureVisuals
from trimesh.visual.material import SimpleMaterial

from pcs_ext.errors import ConfigError
from pcs_ext.threed.cameras import orbit, rays, ring
from pcs_ext.threed.mesh import MeshConfig, extract_mesh, read_mesh, write_mesh
from pcs_ext.threed.mesh_views import render_mesh
from pcs_ext.threed.rasterize import project, rasterize
from pcs_ext.threed.shapes import painter
from pcs_ext.threed.texture import TextureConfig, bake_texture, grid_layout, pad_charts
from tests.threed.test_mesh import Ball


def test_projection_is_the_inverse_of_the_rays() -> None:
    cameras = orbit([30.0, -100.0], [20.0, -5.0], [5.0, 4.0], [32.0, 45.0], (0.1, 0.2, 0.7))
    bundle = rays(cameras, 6, 10)
    for index in range(2):
        part = bundle[slice(index * 60, index * 60 + 60)]
        points = part.origins + 3.7 * part.directions
        found = project(cameras, index, points, 6, 10)
        row, column = torch.meshgrid(torch.arange(6) + 0.5, torch.arange(10) + 0.5, indexing="ij")
        torch.testing.assert_close(found[:, 0], column.reshape(-1), rtol=0, atol=1e-3)
        torch.testing.assert_close(found[:, 1], row.reshape(-1), rtol=0, atol=1e-3)
        torch.testing.assert_close(found[:, 2], 3.7 * part.along, rtol=1e-5, atol=1e-5)


def test_the_nearest_triangle_is_where_the_ray_first_hits() -> None:
    mesh = trimesh.creation.torus(0.6, 0.25, 24, 12)
    mesh.apply_translation([0, 0, 0.75])
    cameras = orbit([40.0], [25.0], [4.0], [32.0], (0.0, 0.0, 0.75))
    vertices, faces = torch.from_numpy(np.array(mesh.vertices)), torch.from_numpy(np.array(mesh.faces))
    seen = rasterize(project(cameras, 0, vertices, 24, 24), faces, 24, 24)
    bundle = rays(cameras, 24, 24)
    # Moeller-Trumbore, brute force.
    a, b, c = (vertices[faces[:, k]].double() for k in range(3))
    origin, toward = bundle.origins[0].double(), bundle.directions.double()
    across = torch.linalg.cross(toward[:, None].expand(-1, len(a), -1), (c - a)[None].expand(len(toward), -1, -1))
    det = (across * (b - a)).sum(-1)
    u = (across * (origin - a)).sum(-1) / det
    q = torch.linalg.cross(origin - a, b - a)
    v = (toward @ q.T) / det
    t = ((c - a) * q).sum(-1) / det
    t[(u < 0) | (v < 0) | (u + v > 1)] = math.inf
    nearest, expected = t.min(1)
    hit = torch.isfinite(nearest)
    found = seen.face.view(-1)
    assert ((found >= 0) == hit).float().mean() > 0.995  # pixels whose centre lies on an edge may differ by rounding
    both = hit & (found >= 0)
    assert (found[both] == expected[both]).float().mean() > 0.995
    place = seen.interpolate(vertices.float(), faces).view(-1, 3)[both]
    true = (origin + nearest[:, None] * toward)[both].float()
    assert (place - true).norm(dim=1).median() < 1e-5


def test_two_triangles_tile_a_square_without_gap() -> None:
    points = torch.tensor([[0.0, 0, 1], [8, 0, 1], [0, 8, 1], [8, 8, 1]])
    seen = rasterize(points, torch.tensor([[0, 1, 2], [3, 2, 1]]), 8, 8)
    assert (seen.face >= 0).all()
    assert seen.barycentric.sum(-1).allclose(torch.ones(8, 8))
    behind = rasterize(points * torch.tensor([1, 1, -1.0]), torch.tensor([[0, 1, 2]]), 8, 8)
    assert (behind.face < 0).all()
    assert (rasterize(points, torch.zeros(0, 3, dtype=torch.long), 4, 4).face < 0).all()


def test_depth_decides_whatever_the_order() -> None:
    near, far = [[0.0, 0, 1], [9, 0, 1], [0, 9, 1]], [[0.0, 0, 2], [9, 0, 2], [0, 9, 2]]
    for order, expected in ((near + far, 0), (far + near, 1)):
        seen = rasterize(torch.tensor(order), torch.tensor([[0, 1, 2], [3, 4, 5]]), 8, 8)
        assert seen.face[1, 1] == expected


@pytest.mark.parametrize("layout", ["grid", "xatlas"])
@pytest.mark.parametrize("kind", ["glb", "obj"])
def test_a_baked_texture_comes_back_right_side_up(tmp_path: Path, kind: str, layout: str) -> None:
    ball = Ball()  # red above, blue below
    plain = extract_mesh(ball, MeshConfig(resolution=28))
    baked = bake_texture(plain, painter(ball), TextureConfig(layout=layout))  # pyright: ignore[reportArgumentType]
    assert len(baked.faces) == len(plain.faces)
    write_mesh(baked, tmp_path / f"ball.{kind}")
    found = read_mesh(tmp_path / f"ball.{kind}")
    assert found.visual.kind == "texture"
    assert len(found.faces) == len(plain.faces)
    image = found.visual.material.baseColorTexture if kind == "glb" else found.visual.material.image
    assert image is not None
    # An independent lookup: trimesh's own sampling of the texture at the vertices.
    colors = found.visual.to_color().vertex_colors[:, :3].astype(int)
    height = np.asarray(found.vertices)[:, 2] - 0.75
    assert (colors[height > 0.05] == [255, 0, 0]).all(1).mean() > 0.99
    assert (colors[height < -0.05] == [0, 0, 255]).all(1).mean() > 0.99
    # And ours, in pictures: no pixel inside shows a colour that the ball does not have.
    seen = render_mesh(found, ring(2), 48, 48, lit=False)
    assert seen[:, 0, 14:20, 22:26].mean() > 0.98
    assert seen[:, 2, 28:34, 22:26].mean() > 0.98
    assert seen[:, 1, 17:31, 22:26].max() < 0.05


def test_pictures_of_a_mesh_agree_with_its_field() -> None:
    ball = Ball()
    mesh = extract_mesh(ball, MeshConfig(resolution=48))
    seen = render_mesh(mesh, ring(1), 64, 64, lit=False)
    covered = (seen[:, 1] < 0.5)[0]
    half = math.tan(math.radians(16))
    radius = math.tan(math.asin(0.6 / 5.2)) / half * 32
    assert int(covered.sum()) == pytest.approx(math.pi * radius**2, rel=0.04)
    lit = render_mesh(mesh, ring(1), 64, 64)
    assert (lit <= seen + 1e-6).all()


def test_the_grid_holds_every_face_once_and_texels_know_their_place() -> None:
    mesh = trimesh.creation.icosphere(2)
    made = grid_layout(mesh, 130)
    assert made.uv.min() >= 0
    assert made.uv.max() <= 1
    assert (made.origin.reshape(-1, 3) == np.asarray(mesh.faces)).all()
    assert made.seen.face.unique().tolist() == list(range(-1, 320))
    # A texel inside its triangle lies where the triangle's own coordinates say.
    flat = torch.from_numpy(np.stack([made.uv[:, 0] * 130, (1 - made.uv[:, 1]) * 130], -1)).float()
    found = made.seen.interpolate(flat, torch.from_numpy(made.faces))
    row, column = torch.meshgrid(torch.arange(130) + 0.5, torch.arange(130) + 0.5, indexing="ij")
    inside = (made.seen.barycentric > 1e-3).all(-1)
    torch.testing.assert_close(found[inside], torch.stack([column, row], -1)[inside], rtol=0, atol=1e-3)
    drawn = rasterize(torch.cat([flat, torch.ones(len(flat), 1)], 1), torch.from_numpy(made.faces), 130, 130)
    assert (drawn.face[inside] == made.seen.face[inside]).all()
    with pytest.raises(ConfigError, match="at least 104 texels"):
        grid_layout(mesh, 103)


def test_colours_grow_over_empty_texels() -> None:
    image, covered = torch.zeros(3, 7, 7), torch.zeros(7, 7, dtype=torch.bool)
    image[0, 3, 3], covered[3, 3] = 1.0, True
    grown = pad_charts(image, covered, 2)
    assert (grown[0, 1:6, 1:6] == 1).all()
    assert grown.sum() == 25


def test_a_missing_texture_reader_is_not_needed(tmp_path: Path) -> None:
    mesh = trimesh.creation.box()
    mesh.visual = TextureVisuals(
        uv=np.zeros((8, 2)),
        material=SimpleMaterial(image=Image.new("RGB", (2, 2), (0, 255, 0))),
    )
    assert render_mesh(mesh, ring(1), 16, 16, lit=False)[0, 1].max() == 1
