"""Splats: how they are seen, learn, lie on disk, and what of them other tools read."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from pcs_ext.errors import ConfigError, InputError, UsageError
from pcs_ext.image.fit import FitConfig
from pcs_ext.threed.cameras import Cameras, orbit, rays, ring
from pcs_ext.threed.field_config import FieldConfig
from pcs_ext.threed.fields import Blob
from pcs_ext.threed.mesh import MeshConfig, extract_mesh
from pcs_ext.threed.render import RenderConfig, render_views
from pcs_ext.threed.splat_fit import SplatFit, field_pictures, fit_splats, picture_loss, ssim, surface_splats
from pcs_ext.threed.splat_ply import splat_bytes
from pcs_ext.threed.splat_render import ellipses, render_splats
from pcs_ext.threed.splats import Cloud, Splats, SplatsConfig, load_splats, rotations, save_splats


def one(scale: float, opacity: float, place: tuple[float, float, float] = (0.0, 0.0, 0.0)) -> Cloud:
    """A round red splat in float64."""
    return Cloud(
        places=torch.tensor([place], dtype=torch.float64),
        covariances=torch.eye(3, dtype=torch.float64)[None] * scale**2,
        opacities=torch.tensor([opacity], dtype=torch.float64),
        colors=torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64),
    )


def front(distance: float = 5.0, fov: float = 30.0) -> Cameras:
    """From -y, level."""
    return orbit([0.0], [0.0], [distance], [fov], (0.0, 0.0, 0.0))


def test_a_splat_is_the_projected_gaussian() -> None:
    side, scale, opacity = 64, 0.3, 0.8
    seen = render_splats(one(scale, opacity), front(), side, side, background=0.0)
    focal = side / 2 / math.tan(math.radians(15))
    variance = (scale * focal / 5) ** 2 + 0.3
    fainter = (scale * focal / 5) ** 2 / variance
    line = torch.arange(side, dtype=torch.float64) + 0.5 - side / 2
    y, x = torch.meshgrid(line, line, indexing="ij")
    expected = opacity * fainter * torch.exp(-0.5 * (x * x + y * y) / variance)
    expected = torch.where(expected > 1 / 255, expected, 0.0)
    torch.testing.assert_close(seen.opacity[0], expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(seen.rgb[0, 0], expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(seen.depth[0, side // 2, side // 2], torch.tensor(5.0, dtype=torch.float64))


def test_small_splats_keep_their_sum_at_every_resolution() -> None:
    sums = []
    for side in (32, 128):
        seen = render_splats(one(0.02, 0.9, (0.3, 0.0, 0.2)), front(), side, side, background=0.0)
        sums.append(float(seen.opacity.sum()) / side**2)
    focal = 1 / 2 / math.tan(math.radians(15))
    assert sums[1] == pytest.approx(0.9 * 2 * math.pi * (0.02 * focal / 5) ** 2, rel=0.06)
    assert sums[0] == pytest.approx(sums[1], rel=0.25)  # what is fainter than 1/255 is not drawn


def random_cloud(count: int) -> Cloud:
    """Splats of all forms about the origin, in float64."""
    generator = torch.Generator().manual_seed(0)
    values = {n: torch.rand(count, k, generator=generator, dtype=torch.float64) for n, k in
              (("places", 3), ("scales", 3), ("turns", 4), ("opacities", 1), ("colors", 3))}  # fmt: skip
    axes = rotations(values["turns"] - 0.5) * (0.02 + 0.2 * values["scales"])[:, None]
    return Cloud(
        places=values["places"] * 1.6 - 0.8,
        covariances=axes @ axes.mT,
        opacities=values["opacities"][:, 0],
        colors=values["colors"],
    )


def test_tiles_are_what_a_loop_over_all_splats_gives() -> None:
    cloud, camera, height, width = random_cloud(40), orbit([30.0], [20.0], [4.0], [40.0], (0, 0, 0)), 21, 27
    seen = render_splats(cloud, camera, height, width, background=torch.tensor([0.1, 0.5, 0.9]))
    flat = ellipses(cloud, camera, 0, height, width)
    assert (flat.depths.diff() >= 0).all()
    for row, column in ((3, 5), (10, 13), (16, 20), (20, 26)):
        light, color = 1.0, torch.zeros(3, dtype=torch.float64)
        for index in range(len(flat.depths)):
            away = torch.tensor([column + 0.5, row + 0.5], dtype=torch.float64) - flat.middles[index]
            power = float(-0.5 * away @ torch.linalg.inv(flat.covariances[index]) @ away)
            alpha = min(float(flat.opacities[index]) * math.exp(power), 0.99)
            if alpha > 1 / 255:
                color, light = color + light * alpha * flat.colors[index], light * (1 - alpha)
        color = color + light * torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
        torch.testing.assert_close(seen.rgb[0, :, row, column], color)


def test_gradients_are_those_of_finite_differences() -> None:
    start = random_cloud(5)
    factors = torch.linalg.cholesky(start.covariances)
    weights = torch.rand(1, 3, 6, 7, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def picture(places: torch.Tensor, factors: torch.Tensor, opacities: torch.Tensor, colors: torch.Tensor):
        cloud = Cloud(places=places, covariances=factors @ factors.mT, opacities=opacities, colors=colors)
        seen = render_splats(cloud, orbit([10.0], [15.0], [2.0], [60.0], (0, 0, 0)), 6, 7)
        return (seen.rgb * weights).sum() + seen.opacity.sum() + seen.depth.square().sum()

    inputs = [value.clone().requires_grad_() for value in (start.places, factors, start.opacities, start.colors)]
    assert torch.autograd.gradcheck(picture, inputs, eps=1e-7, atol=1e-5)


def test_a_splat_as_matter_hides_what_it_hides_as_a_splat() -> None:
    splats = Splats(SplatsConfig(count=1))
    with torch.no_grad():
        splats.places.copy_(torch.tensor([[0.2, 0.0, 0.75]]))
        splats.log_scales.fill_(math.log(0.2))
        splats.raw_opacities.fill_(1.5)
        splats.raw_colors.copy_(torch.tensor([[3.0, 0.0, -3.0]]))
    camera = ring(1, elevation=0.0)
    with torch.no_grad():
        matter = render_views(splats, camera, 33, 33, RenderConfig(samples=400)).opacity.view(-1)
        middle = float(render_splats(splats.cloud(), camera, 129, 129).opacity.max())
    bundle, opacity = rays(camera, 33, 33), 1 / (1 + math.exp(-1.5))
    past = torch.linalg.cross(splats.places.detach() - bundle.origins, bundle.directions).norm(dim=-1) / 0.2
    expected = 1 - (1 - opacity) ** torch.exp(-0.5 * past**2)
    assert (matter - expected)[past < 2.5].abs().max() < 0.01
    assert middle == pytest.approx(opacity, abs=0.01)
    with torch.no_grad():
        splats.raw_opacities.fill_(20.0)  # float32 takes it for all
    solid = splats.query(torch.tensor([[0.2, 0.0, 0.75]]))
    assert solid.density.isfinite().all()
    assert solid.albedo.isfinite().all()
    splats.alive[0] = False
    assert (render_splats(splats.cloud(), camera, 8, 8).rgb == 1).all()
    assert (splats.query(torch.tensor([[0.2, 0.0, 0.75]])).density == 0).all()


def test_pictures_are_alike_or_not() -> None:
    images = torch.rand(1, 3, 20, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert float(ssim(images, images)) == pytest.approx(1.0)
    assert float(ssim(images, 1 - images)) < -0.5
    assert float(picture_loss(images, images * 0 + images.mean(), 0.0)) == pytest.approx(
        float((images - images.mean()).abs().mean())
    )
    small = images[..., :6, :6].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda value: ssim(value, images[..., 6:12, 6:12]), (small,))


FIT = SplatFit(
    fit=FitConfig(steps=40, optimizer="adam", lr_schedule="cosine", eps=1e-15, max_gradient_norm=None),
    count=300,
    side=32,
    views=6,
)


def test_splats_become_a_field_are_stored_and_cut(tmp_path: Path) -> None:
    field = FieldConfig(resolution=24, blob=Blob(height=60.0, radius=0.5)).build()
    with torch.no_grad():
        field.albedo_grid[:, 0] = 2.0  # pyright: ignore[reportIndexIssue]
    cameras, seen = field_pictures(field, FIT)
    splats = surface_splats(field, cameras, seen, FIT, seed=0)

    def error() -> float:
        with torch.no_grad():
            other = ring(3, elevation=25.0)
            true = render_views(field, other, 32, 32).rgb
            return float((render_splats(splats.cloud(), other, 32, 32).rgb - true).abs().mean())

    start = error()
    for _ in fit_splats(splats, cameras, seen.rgb, FIT):
        pass
    assert error() < min(0.6 * start, 0.02), (start, error())
    save_splats(splats, tmp_path / "splats")
    again = load_splats(tmp_path / "splats")
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in splats.state_dict().items())
    mesh = extract_mesh(splats, MeshConfig(resolution=32, relative=0.5))
    assert mesh.is_watertight
    assert mesh.bounds[1][2] == pytest.approx(0.75 + 0.75, abs=0.15)
    (tmp_path / "splats" / "splats.safetensors").write_bytes(b"no")
    with pytest.raises(InputError, match="damaged"):
        load_splats(tmp_path / "splats")
    empty = FieldConfig(resolution=8).build()
    with torch.no_grad():
        empty.density_grid.fill_(-20.0)  # pyright: ignore[reportCallIssue]
    with pytest.raises(UsageError, match="shows nothing"):
        surface_splats(empty, *field_pictures(empty, FIT), FIT, seed=0)
    with pytest.raises(UsageError, match="one per camera"):
        next(fit_splats(splats, cameras, seen.rgb[:2], FIT))
    with pytest.raises(ConfigError, match="expected splats"):
        dataclasses.replace(FIT, count=0)


def test_files_hold_learned_splats_as_they_are() -> None:
    splats = Splats(SplatsConfig(count=3))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in splats.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
        splats.alive[1] = False
    header, body = splat_bytes(splats).split(b"end_header\n", 1)
    names = [line.split()[-1].decode() for line in header.splitlines() if line.startswith(b"property float")]
    rows = np.frombuffer(body, [(name, "<f4") for name in names])
    assert b"element vertex 2\n" in header
    kept = [0, 2]
    np.testing.assert_allclose(rows["x"], splats.places[kept, 0].detach(), rtol=1e-6)
    np.testing.assert_allclose(rows["scale_1"], splats.log_scales[kept, 1].detach(), rtol=1e-6)
    np.testing.assert_allclose(rows["opacity"], splats.raw_opacities[kept].detach(), rtol=1e-6)
    green = 0.5 + 0.28209479177387814 * rows["f_dc_1"]
    np.testing.assert_allclose(green, torch.sigmoid(splats.raw_colors[kept, 1]).detach(), rtol=1e-5)
    turns = torch.from_numpy(np.stack([rows[f"rot_{index}"] for index in range(4)], 1))
    torch.testing.assert_close(turns.norm(dim=1), torch.ones(2))
    torch.testing.assert_close(rotations(turns), rotations(splats.turns[kept]).detach(), atol=1e-5, rtol=1e-5)
