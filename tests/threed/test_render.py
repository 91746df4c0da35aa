"""Quadrature against closed forms; fields; regularisers."""

import math

import pytest
import torch
from torch import Tensor

from pcs_ext.image.types import ParameterGroup
from pcs_ext.threed.cameras import Rays, orbit, rays
from pcs_ext.threed.fields import AbstractField, Blob, Bounds, HashField, HashGrid, Queried, VoxelField
from pcs_ext.threed.occupancy import Occupancy
from pcs_ext.threed.regularizers import (
    distortion_loss,
    entropy_loss,
    opacity_loss,
    orientation_loss,
    total_variation,
)
from pcs_ext.threed.render import RenderConfig, render_rays, render_views, weights_of
from pcs_ext.threed.sdf_field import SdfField


class Solid(AbstractField):
    """Constant density in the cube or in a ball, red."""

    def __init__(self, density: float, radius: float = math.inf) -> None:
        super().__init__()
        self.bounds, self.held, self.radius = Bounds(center=(0.0, 0.0, 0.0), half=1.0), density, radius

    def query(self, points: Tensor) -> Queried:
        """See the base class."""
        inside = (points.abs() <= 1 + 1e-5).all(-1) & (points.norm(dim=-1) <= self.radius)
        return Queried(self.held * inside.to(points.dtype), points.new_tensor([1.0, 0.0, 0.0]).expand(len(points), 3))

    def groups(self) -> list[ParameterGroup]:
        """Nothing."""
        return []


def along_x(*offsets: float) -> Rays:
    """Rays in direction x from x = -5 at heights `offsets`."""
    origins = torch.tensor([[-5.0, 0.0, z] for z in offsets], dtype=torch.float64)
    directions = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64).expand(len(offsets), 3)
    return Rays(origins=origins, directions=directions, along=torch.ones(len(offsets), dtype=torch.float64))


@pytest.mark.parametrize("density", [0.01, 0.7, 30.0])
def test_a_slab_is_exact(density: float) -> None:
    out = render_rays(Solid(density), along_x(0.0, 0.5, 3.0), RenderConfig(samples=7), background=0.25)
    expected = torch.tensor([1 - math.exp(-2 * density)] * 2 + [0.0], dtype=torch.float64)
    assert torch.allclose(out.opacity, expected, rtol=0, atol=1e-12)
    assert torch.allclose(out.rgb[:, 1], (1 - expected) * 0.25, atol=1e-12)
    assert torch.allclose(out.rgb[:, 0], expected + (1 - expected) * 0.25, atol=1e-12)


def test_a_slabs_mean_depth_is_the_exponentials() -> None:
    # Depth of light absorbed with density s over length 2: 4 + (1/s) - 2 exp(-2s) / (1 - exp(-2s)).
    s = 1.5
    out = render_rays(Solid(s), along_x(0.0), RenderConfig(samples=2000))
    assert out.depth.item() == pytest.approx(4 + 1 / s - 2 * math.exp(-2 * s) / (1 - math.exp(-2 * s)), abs=1e-6)


def test_a_sphere_converges_to_its_chords() -> None:
    heights = (0.0, 0.3, 0.6, 0.79)
    exact = torch.tensor([1 - math.exp(-2 * 2.0 * math.sqrt(0.64 - z * z)) for z in heights], dtype=torch.float64)
    errors = []
    for samples in (50, 5000):
        out = render_rays(Solid(2.0, 0.8), along_x(*heights), RenderConfig(samples=samples))
        errors.append((out.opacity - exact).abs().max().item())
    assert errors[1] < 2e-3 < errors[0]


def test_weights_and_what_passes_add_up_to_one() -> None:
    density = torch.rand(20, 30, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5
    widths = torch.full_like(density, 0.07)
    passed = torch.exp(-(density * widths).sum(-1))
    assert torch.allclose(weights_of(density, widths).sum(-1) + passed, torch.ones(20, dtype=torch.float64), atol=1e-13)


def test_weights_have_the_right_gradient() -> None:
    density = torch.rand(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradcheck(lambda d: weights_of(d, torch.full_like(d, 0.4)), (density,))


@pytest.mark.parametrize(
    "field",
    [VoxelField(16), HashField(), SdfField(16, radius=0.5), SdfField(16, radius=0.5, opacity="neus")],
    ids=lambda f: type(f).__name__,
)
def test_density_alone_is_what_a_query_finds(field: AbstractField) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in field.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    points = (torch.rand(500, 3, generator=generator) * 2 - 1) * 1.3 * field.bounds.half
    torch.testing.assert_close(field.density(points), field.query(points).density)


def test_normals_of_a_blob_look_outward() -> None:
    field = VoxelField(48, Bounds(center=(0.0, 0.0, 0.0), half=1.0), Blob())
    points = torch.nn.functional.normalize(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)), dim=-1) * 0.4
    cosine = (field.normals(points) * points / 0.4).sum(-1)
    assert cosine.min() > 0.98


def test_occupancy_skips_without_changing_the_picture() -> None:
    field = HashField(HashGrid(levels=2, finest=16), blob=Blob(height=10, radius=0.4))
    occupancy = Occupancy(field, 24, 0.01)
    occupancy.update()
    camera = orbit([20.0], [10.0], [5.2], [32.0], (0.0, 0.0, 0.75))
    plain, skipped = (render_views(field, camera, 12, 12, occupancy=o) for o in (None, occupancy))
    assert occupancy.cells.float().mean() < 0.5
    assert plain.opacity.max() > 0.9
    assert torch.allclose(plain.rgb, skipped.rgb, atol=2e-3)


def test_shading_modes_do_what_they_say() -> None:
    field = VoxelField(32, blob=Blob(height=60))
    camera = orbit([0.0], [0.0], [5.0], [20.0], (0.0, 0.0, 0.75))
    with torch.no_grad():
        field.albedo_grid[:, 0] += 8
    by_mode = {
        s: render_views(field, camera, 9, 9, RenderConfig(shading=s)) for s in ("albedo", "lambertian", "textureless")
    }
    middle = {name: views.rgb[0, :, 4, 4] for name, views in by_mode.items()}
    assert middle["albedo"].tolist() == pytest.approx([1.0, 0.5, 0.5], abs=0.02)
    assert torch.allclose(middle["lambertian"], middle["albedo"] * middle["textureless"], atol=0.02)
    assert middle["textureless"].min() > 0.8  # lit from the camera, seen head-on
    rim = by_mode["textureless"]
    dim = rim.rgb[0, 0][(rim.opacity[0] > 0.9)].min()
    assert dim < middle["textureless"][0] - 0.05


def test_depth_is_along_the_optical_axis() -> None:
    camera = orbit([30.0], [0.0], [5.0], [60.0], (0.0, 0.0, 0.0))
    bundle = rays(camera, 5, 5)
    bundle = Rays(origins=bundle.origins.double(), directions=bundle.directions.double(), along=bundle.along.double())
    ball = render_rays(Solid(1e4, 0.9), bundle, RenderConfig(samples=4000)).depth.view(5, 5)
    assert ball[2, 2].item() == pytest.approx(4.1, abs=2e-3)


def test_a_hash_grid_without_collisions_is_trilinear() -> None:
    grid = HashGrid(levels=1, features=1, table=1000, coarsest=4, finest=4)
    with torch.no_grad():
        grid.tables[0].copy_(torch.randn(grid.tables[0].shape, generator=torch.Generator().manual_seed(0)))
    unit = torch.rand(40, 3, generator=torch.Generator().manual_seed(1))
    dense = grid.tables[0].detach().view(1, 1, 5, 5, 5)  # indexed x, y, z: grid_sample's last axis is z here
    expected = torch.nn.functional.grid_sample(dense, unit.flip(-1).view(1, 1, 1, -1, 3) * 2 - 1, align_corners=True)
    assert torch.allclose(grid(unit)[:, 0], expected.view(-1), atol=1e-5)


def test_levels_open_with_progress() -> None:
    field = HashField()
    field.advance(0.0)
    unit = torch.rand(4, 3)
    assert (field.grid(unit)[:, 8:] == 0).all()
    field.advance(0.5)
    assert (field.grid(unit)[:, 8:] != 0).any()


def test_distortion_equals_its_double_sum() -> None:
    generator = torch.Generator().manual_seed(0)
    w, d = (torch.rand(4, 9, generator=generator, dtype=torch.float64) for _ in range(2))
    widths = d / d.sum(-1, keepdim=True)
    t = widths.cumsum(-1) - widths / 2
    double = (w[:, :, None] * w[:, None] * (t[:, :, None] - t[:, None]).abs()).sum((1, 2))
    expected = (double + (w.square() * widths).sum(-1) / 3).mean()
    assert distortion_loss(w, t, widths).item() == pytest.approx(expected.item(), rel=1e-12)


def test_regularisers_have_their_minima_where_they_should() -> None:
    assert entropy_loss(torch.tensor([0.5])).item() == pytest.approx(1.0)
    assert entropy_loss(torch.tensor([0.0, 1.0])).item() < 1e-3
    assert opacity_loss(torch.zeros(3)).item() == pytest.approx(0.1)
    assert total_variation(torch.full((1, 2, 3, 3, 3), 4.0)).item() == 0
    ramp = torch.arange(3.0).view(1, 1, 3, 1, 1).expand(1, 1, 3, 3, 3)
    assert total_variation(ramp).item() == 1
    field = VoxelField(32, blob=Blob())
    bundle = rays(orbit([0.0], [0.0], [5.0], [20.0], (0.0, 0.0, 0.75)), 5, 5)
    out = render_rays(field, bundle, RenderConfig(normals=True))
    outward = orientation_loss(out)
    with torch.no_grad():
        field.density_grid.neg_()
    inverted = orientation_loss(render_rays(field, bundle, RenderConfig(normals=True)))
    # Not 0: the far side of a soft ball shows through.
    assert outward < 0.05 * inverted
