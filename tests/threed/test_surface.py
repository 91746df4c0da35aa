"""Tetrahedra, soft outlines and the refinement of surfaces against closed forms."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh

from pcs_ext.errors import ConfigError, InputError, UsageError
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import FitConfig
from pcs_ext.threed.cameras import Cameras, ring
from pcs_ext.threed.distillation import DistillationConfig
from pcs_ext.threed.fields import Blob, Bounds, VoxelField
from pcs_ext.threed.guidance import ScoreGuidance
from pcs_ext.threed.lighting import Lighting, Lit
from pcs_ext.threed.materials import MaterialConfig
from pcs_ext.threed.mesh import MeshConfig, extract_mesh
from pcs_ext.threed.rasterize import barycentric_at, project, rasterize
from pcs_ext.threed.recipes import RECIPES, RefinedTo3dRecipe
from pcs_ext.threed.soft_edges import mesh_edges, soften
from pcs_ext.threed.surface import (
    SurfaceConfig,
    SurfaceMesh,
    TetSurface,
    load_surface,
    save_surface,
    start_from,
    surface_to_trimesh,
)
from pcs_ext.threed.surface_render import render_surface
from pcs_ext.threed.surface_stage import SurfaceStage, laplacian, normal_consistency, refine_surface
from pcs_ext.threed.tetrahedra import march, tet_grid
from tests.support.gaussian import GaussianBackbone

SMALL = SurfaceConfig(cells=14, materials=MaterialConfig(resolution=12))


def test_tetrahedra_fill_the_cube_and_face_one_way() -> None:
    corners, tets = tet_grid(5)
    sides = corners[tets[:, 1:]] - corners[tets[:, :1]]
    volumes = torch.linalg.det(sides.double()) / 6
    assert volumes.min() > 0
    assert float(volumes.sum()) == pytest.approx(8.0, rel=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_surfaces_are_closed_and_wound_outwards_whatever_the_distances(seed: int) -> None:
    corners, tets = tet_grid(8)
    noise = torch.randn(len(corners), generator=torch.Generator().manual_seed(seed))
    wall = (corners.abs() > 1 - 1e-6).any(1)
    vertices, faces = march(corners, torch.where(wall, noise.abs() + 0.1, noise), tets)
    mesh = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
    assert mesh.is_watertight
    assert mesh.is_winding_consistent
    assert mesh.volume > 0


def test_a_ball_has_its_volume() -> None:
    corners, tets = tet_grid(24)
    vertices, faces = march(corners, corners.norm(dim=1) - 0.5, tets)
    mesh = trimesh.Trimesh(vertices.numpy(), faces.numpy(), process=False)
    assert mesh.euler_number == 2
    assert mesh.volume == pytest.approx(4 / 3 * math.pi / 8, rel=0.02)


def test_vertices_follow_distances_and_corners() -> None:
    corners, tets = tet_grid(2)
    generator = torch.Generator().manual_seed(3)
    positions = (corners + 0.05 * torch.randn(corners.shape, generator=generator)).double().requires_grad_()
    distances = (corners.norm(dim=1) - 0.61).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda p, d: march(p, d, tets)[0], (positions, distances))


TRIANGLE = torch.tensor([[4.3, 5.2, 1.0], [27.7, 9.9, 1.0], [11.4, 26.6, 1.0]])
FACES = torch.tensor([[0, 1, 2]])


def coverage(points: torch.Tensor, faces: torch.Tensor, side: int = 32) -> torch.Tensor:
    """Softened opacity `side side` of flat triangles."""
    seen = rasterize(points.detach(), faces, side, side)
    z = seen.interpolate(points[:, 2:].detach(), faces)[..., 0]
    image = (seen.face >= 0).float()[..., None]
    depth = torch.where(seen.face >= 0, z, torch.inf)
    return soften(image, depth, points, faces, mesh_edges(faces))[..., 0]


@pytest.mark.parametrize("order", [[0, 1, 2], [0, 2, 1]])
def test_soft_coverage_is_the_area_and_moves_with_it(order: list[int]) -> None:
    points = TRIANGLE.clone().requires_grad_()
    soft = coverage(points, FACES[:, order])
    a, b, c = points[:, :2]
    area = ((b - a)[0] * (c - a)[1] - (b - a)[1] * (c - a)[0]).abs() / 2
    assert soft.sum().item() == pytest.approx(area.item(), rel=0.005)
    assert soft.min() >= 0
    assert soft.max() <= 1
    found, true = (torch.autograd.grad(value, points, retain_graph=True)[0] for value in (soft.sum(), area))
    # Corners themselves cover no pixel centre: a pixel's worth of an edge of 20 may be missing at either end.
    torch.testing.assert_close(found[:, :2], true[:, :2], rtol=0.1, atol=0.6)
    # Shifted by dx, the first moment grows by the area times dx.
    slope = torch.autograd.grad((soft * torch.arange(32.0)).sum(), points)[0][:, 0].sum()
    assert slope.item() == pytest.approx(area.item(), rel=0.05)


def test_hidden_and_inner_edges_leave_the_picture_alone() -> None:
    shield = torch.tensor([[-40.0, -40.0, 0.5], [200.0, -40.0, 0.5], [-40.0, 200.0, 0.5]])
    both = torch.cat([TRIANGLE, shield])
    assert (coverage(both, torch.tensor([[0, 1, 2], [3, 4, 5]])) == 1).all()
    square = torch.tensor([[4.0, 4.0, 1.0], [24.0, 4.0, 1.0], [24.0, 24.0, 1.0], [4.0, 24.0, 1.0]])
    soft = coverage(square, torch.tensor([[0, 1, 2], [0, 2, 3]]))
    assert (soft[6:22, 6:22] == 1).all()


def test_weights_with_a_graph_are_those_without() -> None:
    mesh, cameras = TetSurface(SMALL).mesh(), ring(2, elevation=30.0)
    points = project(cameras, 1, mesh.vertices, 24, 24)
    seen = rasterize(points.detach(), mesh.faces, 24, 24)
    again = barycentric_at(seen.face, points, mesh.faces)
    torch.testing.assert_close(again, seen.barycentric, rtol=1e-3, atol=1e-4)
    place = (mesh.vertices[mesh.faces[seen.face.clamp_min(0)]] * again[..., None]).sum(-2)
    assert torch.autograd.grad(place.sum(), mesh.vertices)[0].abs().sum() > 0


def test_flat_is_smooth_and_even() -> None:
    x, y = torch.meshgrid(torch.arange(5.0), torch.arange(5.0), indexing="ij")
    vertices = torch.stack([x, y, 0.3 * x - 0.2 * y], -1).view(-1, 3)
    corner = (torch.arange(4)[:, None] * 5 + torch.arange(4)).view(-1)
    halves = [torch.stack([corner, corner + a, corner + b], 1) for a, b in ((5, 6), (6, 1))]
    faces = torch.cat(halves)
    assert float(normal_consistency(SurfaceMesh(vertices, faces))) == pytest.approx(0, abs=1e-6)
    bumpy = SurfaceMesh(vertices + torch.tensor([0, 0, 1.0]) * (torch.arange(25) == 12)[:, None], faces)
    assert normal_consistency(bumpy) > 0.01
    assert laplacian(bumpy) > laplacian(SurfaceMesh(vertices, faces))
    with torch.no_grad():
        ball = TetSurface(SMALL).mesh()
    doubled = SurfaceMesh(ball.vertices * 2, ball.faces)
    assert float(laplacian(doubled)) == pytest.approx(4 * float(laplacian(ball)), rel=1e-4)


def seen_from(surface: TetSurface, cameras: Cameras, side: int = 28) -> torch.Tensor:
    """Pictures with their opacity, lit from the cameras, `b 4 side side`."""
    lit = Lit(shading="textureless", light=cameras.positions, background=torch.zeros(len(cameras), 3))
    made = render_surface(surface, cameras, side, lit, ambient=0.3, supersampling=1)
    return torch.cat([made.rgb, made.opacity[:, None]], 1)


def roundness(surface: TetSurface) -> float:
    """Spread of the vertices' distances from the middle, world units."""
    with torch.no_grad():
        vertices = surface.mesh().vertices - torch.tensor(surface.bounds.center)
    return float((vertices.norm(dim=1) - 0.75).square().mean().sqrt())


def test_a_dented_ball_becomes_round_again_from_its_pictures() -> None:
    true, learned = TetSurface(SMALL), TetSurface(SMALL)
    corners, _ = tet_grid(SMALL.cells)
    with torch.no_grad():
        learned.distances.add_(0.12 * torch.sin(5 * corners[:, 0]) * torch.cos(4 * corners[:, 2]))
    cameras = ring(6, elevation=20.0)
    with torch.no_grad():
        truth = seen_from(true, cameras)
    before = roundness(learned)
    optimizer = torch.optim.Adam([learned.distances, learned.shifts], lr=8e-3)
    for _ in range(60):
        optimizer.zero_grad()
        loss = (seen_from(learned, cameras) - truth).square().mean() + 0.02 * normal_consistency(learned.mesh())
        loss.backward()
        optimizer.step()
    after = roundness(learned)
    assert before > 0.06
    assert after < before / 3, (before, after)
    assert surface_to_trimesh(learned).is_watertight


def ball_field(side: int = 24) -> VoxelField:
    """A hard hollow ball with a speck beside it, red above and blue below."""
    field = VoxelField(side, blob=Blob(height=60.0, radius=0.5))
    line = torch.linspace(-1, 1, side)
    z, y, x = torch.meshgrid(line, line, line, indexing="ij")
    with torch.no_grad():
        field.density_grid[0, 0][(x**2 + y**2 + z**2) < 0.04] = -50.0
        field.density_grid[0, 0, 2, 2, 2] = 50.0
        field.albedo_grid.fill_(-8.0)
        field.albedo_grid[0, 0, side // 2 :] = 8.0
        field.albedo_grid[0, 2, : side // 2] = 8.0
    return field


def test_a_surface_starts_with_a_fields_shape_and_colours(tmp_path: Path) -> None:
    surface = TetSurface(dataclasses.replace(SMALL, cells=24))
    start_from(surface, ball_field(), MeshConfig(relative=0.5))
    mesh = surface_to_trimesh(surface)
    assert mesh.is_watertight
    assert mesh.euler_number == 2  # neither the speck nor the hollow
    cut = extract_mesh(ball_field(), MeshConfig(resolution=25, relative=0.5))
    assert mesh.volume == pytest.approx(cut.volume, rel=0.08)
    height = np.asarray(mesh.vertices)[:, 2] - 0.75
    colors = np.asarray(mesh.visual.vertex_colors)[:, :3].astype(int)
    assert colors[height > 0.25].mean(0) == pytest.approx([250, 5, 5], abs=12)
    assert colors[height < -0.25].mean(0) == pytest.approx([5, 5, 250], abs=12)
    with pytest.raises(UsageError, match="expected density above"):
        start_from(surface, VoxelField(8), MeshConfig())
    save_surface(surface, tmp_path / "surface")
    again = load_surface(tmp_path / "surface")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in surface.state_dict().items())
    (tmp_path / "surface" / "surface.safetensors").write_bytes(b"nothing")
    with pytest.raises(InputError, match="is damaged"):
        load_surface(tmp_path / "surface")


STAGE = SurfaceStage(
    surface=dataclasses.replace(SMALL, cells=8),
    fit=FitConfig(steps=6, optimizer="adam", checkpoint_every_steps=2, checkpoint_every_seconds=None),
    guidance=DistillationConfig(guidance_scale=1.0),
    side=16,
    supersampling=1,
    lighting=Lighting(albedo_until=0.3),
    evenness=1.0,
)


def refined(folder: Path, stop_after: int | None = None) -> TetSurface:
    """A surface after its stage, or after its first steps."""
    surface = TetSurface(STAGE.surface)
    guidance = ScoreGuidance(GaussianBackbone(mean=0.3), "a", DistillationConfig(guidance_scale=1.0))
    checkpoints = CheckpointFolder(folder, config_hash="same")
    for state in refine_surface(surface, STAGE, guidance, checkpoints=checkpoints):
        if state.step == stop_after:
            break
    return surface


def test_a_stopped_refinement_goes_on_to_the_same_tensors(tmp_path: Path) -> None:
    whole = refined(tmp_path / "whole").state_dict()
    refined(tmp_path / "parts", stop_after=3)
    resumed = refined(tmp_path / "parts").state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    fresh = TetSurface(STAGE.surface).state_dict()
    assert all(not torch.equal(value, fresh[name]) for name, value in whole.items())


def test_surfaces_that_cannot_be_made_are_refused() -> None:
    with pytest.raises(ConfigError, match="4 to 256 cells"):
        SurfaceConfig(cells=2)
    with pytest.raises(ConfigError, match="8 to 2048 pixels"):
        dataclasses.replace(STAGE, side=4)
    empty = TetSurface(SMALL)
    with torch.no_grad():
        empty.distances.fill_(1.0)
    with pytest.raises(UsageError, match="has vanished"):
        empty.mesh()
    recipe = RECIPES["magic3d"].build("toybox", "fast")
    assert isinstance(recipe, RefinedTo3dRecipe)
    fine = dataclasses.replace(recipe.fine, surface=dataclasses.replace(SMALL, bounds=Bounds(half=1.0)))
    with pytest.raises(ConfigError, match=r"surface\.bounds must be"):
        dataclasses.replace(recipe, fine=fine).validate()
