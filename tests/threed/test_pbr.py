"""The surface model against what light obeys: nothing is made of nothing, ways may be reversed, matt is matt."""

import math

import pytest
import torch

from pcs_ext.threed.materials import Material
from pcs_ext.threed.pbr import Studio, _encoded, _layer_share, _linear, distribution, lit_by, reflectance

UP = torch.tensor([0.0, 0.0, 1.0])


def hemisphere(count: int) -> torch.Tensor:
    """Directions `count 3` above the plane, evenly spread over solid angle (spiral)."""
    z = (torch.arange(count) + 0.5) / count
    turn = torch.arange(count) * 2.399963229728653
    flat = (1 - z.square()).sqrt()
    return torch.stack([flat * turn.cos(), flat * turn.sin(), z], -1)


def reflected(albedo: float, roughness: float, metallic: float, angle: float, count: int = 40_000) -> float:
    """Share of even light that leaves at an angle (degrees) to the normal."""
    light = hemisphere(count)
    camera = torch.tensor([math.sin(math.radians(angle)), 0.0, math.cos(math.radians(angle))]).expand(count, 3)
    values = reflectance(
        torch.full((count, 3), albedo),
        torch.full((count,), roughness),
        torch.full((count,), metallic),
        UP.expand(count, 3),
        camera,
        light,
    )
    return float(values[:, 0].mean() * 2 * math.pi)


@pytest.mark.parametrize("roughness", [0.3, 0.6, 1.0])
def test_facets_cover_the_plane_they_lie_on(roughness: float) -> None:
    cosine = hemisphere(200_000)[:, 2]
    density = distribution(cosine, torch.full_like(cosine, roughness))
    assert float((density * cosine).mean() * 2 * math.pi) == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize("angle", [5.0, 60.0])
@pytest.mark.parametrize(("roughness", "metallic"), [(0.4, 0.0), (1.0, 0.0), (0.4, 1.0), (1.0, 1.0)])
def test_a_white_surface_returns_no_more_light_than_it_gets(roughness: float, metallic: float, angle: float) -> None:
    # Body and layer together exceed 1 by a little in glTF's model: each half of the light is weighed on its own.
    assert 0.25 < reflected(1.0, roughness, metallic, angle) <= (1.03 if metallic == 0 else 1.0)


def test_the_roughest_metal_seen_from_above_reflects_one_less_log_two() -> None:
    # D = 1 / pi and V = 1 / (2 (cos + 1)) there: the integral of cos / (cos + 1) over [0, 1].
    assert reflected(1.0, 1.0, 1.0, 0.0) == pytest.approx(1 - math.log(2), abs=2e-4)


def test_ways_of_light_may_be_reversed() -> None:
    generator = torch.Generator().manual_seed(0)
    camera, light = (torch.nn.functional.normalize(torch.rand(50, 3, generator=generator) + 0.05) for _ in range(2))
    albedo = torch.rand(50, 3, generator=generator)
    rough, metal = (torch.rand(50, generator=generator) * 0.8 + 0.1 for _ in range(2))
    normals = UP.expand(50, 3)
    there = reflectance(albedo, rough, metal, normals, camera, light) / light[:, 2:]
    back = reflectance(albedo, rough, metal, normals, light, camera) / camera[:, 2:]
    torch.testing.assert_close(there, back, rtol=1e-4, atol=1e-6)
    behind = reflectance(albedo, rough, metal, normals, camera, light * torch.tensor([1.0, 1.0, -1.0]))
    assert (behind == 0).all()


@pytest.mark.parametrize(("roughness", "angle"), [(0.3, 30.0), (0.7, 30.0), (0.7, 70.0)])
def test_even_light_is_the_integral_of_lamps(roughness: float, angle: float) -> None:
    base = torch.full((1, 3), 0.8)
    cosine = torch.tensor([math.cos(math.radians(angle))])
    share = _layer_share(base, cosine, torch.tensor([roughness]))
    assert float(share[0, 0]) == pytest.approx(reflected(0.8, roughness, 1.0, angle), rel=0.03)


def test_a_matt_surface_in_even_light_shows_its_colour() -> None:
    material = Material(torch.tensor([[0.5, 0.2, 0.9]]), torch.tensor([0.9]), torch.tensor([0.0]))
    camera = torch.nn.functional.normalize(torch.tensor([[0.2, 0.1, 1.0]]))
    seen = lit_by(Studio(lamps=(), ambient=1.0), material, UP[None], camera)
    # A few percent are reflected white by the layer above it, which lets the rest through.
    body, light = _linear(material.albedo), _linear(seen)
    assert (light > 0.95 * body).all()
    assert (light < body + 0.045).all()
    values = torch.linspace(0.0, 1.0, 50)
    torch.testing.assert_close(_encoded(_linear(values)), values, rtol=0, atol=1e-5)


def test_lamps_light_what_faces_them() -> None:
    studio = Studio(lamps=((0.0, 0.0, 0.8),), ambient=0.0)  # from the front, -y
    normals = torch.tensor([[0.0, -1.0, 0.0], [0.0, 1.0, 0.0]])
    material = Material(torch.full((2, 3), 0.7), torch.full((2,), 0.8), torch.zeros(2))
    seen = lit_by(studio, material, normals, normals)
    assert seen[0].min() > 0.5
    assert seen[1].max() == 0
    rough = torch.full((2,), 0.5, requires_grad=True)
    lit_by(Studio(), Material(material.albedo, rough, material.metallic), normals, normals).sum().backward()
    assert rough.grad is not None
    assert torch.isfinite(rough.grad).all()
    assert (rough.grad != 0).all()
