"""Signed distances as a field, the capsule body, guidances that take turns, and AvatarBooth's job."""

import dataclasses
import math
from typing import Any

import pytest
import torch

from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.subject import Artifact
from pcs_ext.image.types import LossTerms
from pcs_ext.threed.body_template import HEAD, body_distance
from pcs_ext.threed.camera_laws import CameraLaw
from pcs_ext.threed.cameras import Cameras, Rays, orbit, rays, ring
from pcs_ext.threed.distillation import DistillationConfig, encode_views
from pcs_ext.threed.field_config import FieldConfig, load_field, save_field
from pcs_ext.threed.field_stage import CloseUps, FieldLoss
from pcs_ext.threed.fields import Blob, Bounds
from pcs_ext.threed.guidance import AbstractGuidance, ScoreGuidance, TurnTaking
from pcs_ext.threed.lighting import Lighting
from pcs_ext.threed.mesh import MeshConfig, extract_mesh
from pcs_ext.threed.recipes import RECIPES, AvatarTo3dRecipe
from pcs_ext.threed.regularizers import eikonal_loss
from pcs_ext.threed.render import RenderConfig, intersect, render_rays, render_views
from pcs_ext.threed.sdf_field import SdfField
from tests.support.gaussian import GaussianBackbone
from tests.support.small_jobs import HERE, PROMPT, Learned, make, stage

EXACT = MeshConfig(resolution=48, threshold=1000.0, relative=0.5)


@torch.no_grad()
def test_a_ball_of_distances_is_a_ball() -> None:
    field = SdfField(48, radius=0.9)
    points = torch.tensor([[0.0, 0.0, 0.75], [0.9, 0.0, 0.75], [0.0, 0.0, 2.0]])
    density = field.query(points).density * field.beta
    assert density[0] > 0.99
    assert float(density[1]) == pytest.approx(0.5, abs=0.03)
    assert density[2] < 0.02
    slopes = field.slopes()
    assert float(eikonal_loss(slopes)) < 1e-3
    assert float(slopes.median()) == pytest.approx(1, abs=5e-3)
    place = torch.nn.functional.normalize(torch.tensor([[1.0, -2, 0.5], [0.3, 0.1, -1]]), dim=1)
    normals = field.normals(place * 0.85 + torch.tensor([0.0, 0.0, 0.75]))
    assert float((normals * place).sum(1).min()) > 0.99
    mesh = extract_mesh(field, EXACT)
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(4 / 3 * torch.pi * 0.9**3, rel=0.03)
    field.thickness.fill_(0.01)
    seen = render_views(field, ring(1, elevation=0.0), 33, 33, RenderConfig(samples=256))
    assert float(seen.opacity[0, 16, 16]) > 0.999
    assert float(seen.depth[0, 16, 16]) == pytest.approx(5.2 - 0.9, abs=0.04)
    assert seen.opacity[0, 0, 0] < 1e-3


def test_distance_colour_and_thickness_learn() -> None:
    field = SdfField(12)
    found = field.query(torch.rand(64, 3, generator=torch.Generator().manual_seed(0)) * 2 - 0.5)
    (found.density.sum() + found.albedo.sum()).backward()
    for group in field.groups():
        assert all(p.grad is not None and p.grad.abs().max() > 0 for p in group.parameters), group.name


def wall(thickness: float) -> SdfField:
    """A field whose surface is the plane x = 0.1 of the cube from -1 to 1: solid beyond it."""
    field = SdfField(33, Bounds(center=(0.0, 0.0, 0.0), half=1.0), radius=0.5, opacity="neus").double()
    with torch.no_grad():
        field.distances.copy_(0.1 - torch.linspace(-1, 1, 33, dtype=torch.float64).expand(1, 1, 33, 33, 33))
        field.thickness.fill_(thickness - 0.01)
    return field


@pytest.mark.parametrize("thickness", [0.02, 0.1])
@pytest.mark.parametrize("angle", [0.0, 60.0])
def test_neus_weights_are_largest_where_a_ray_meets_the_surface(angle: float, thickness: float) -> None:
    """And what passes is Phi(end) / Phi(beginning), of however few stretches (arXiv 2106.10689, eq. 13)."""
    turned = math.radians(angle)
    direction = torch.tensor([[math.cos(turned), math.sin(turned), 0.0]], dtype=torch.float64)
    meets = torch.tensor([[0.1, 0.0, 0.0]], dtype=torch.float64)
    ray = Rays(origins=meets - 3 * direction, directions=direction, along=torch.ones(1, dtype=torch.float64))
    field = wall(thickness)
    near, far = intersect(ray, field.bounds)
    ends = torch.stack([meets[0, 0] - (ray.origins + t * direction)[0, 0] for t in (near, far)])
    passed = torch.sigmoid(ends[1] / thickness) / torch.sigmoid(ends[0] / thickness)
    for samples in (3, 400):
        seen = render_rays(field, ray, RenderConfig(samples=samples))
        assert 1 - seen.opacity.item() == pytest.approx(passed.item(), rel=1e-9)
    at = seen.distances[0, seen.weights[0].argmax()].item()
    assert at == pytest.approx(3.0, abs=seen.widths[0, 0].item())


def test_both_opacities_show_the_same_ball_and_learn() -> None:
    camera, views = ring(2), {}
    for opacity in ("volsdf", "neus"):
        field = FieldConfig(kind="sdf", resolution=32, opacity=opacity).build()
        assert isinstance(field, SdfField)
        with torch.no_grad():
            thick, _ = field.thickness.clone(), field.thickness.fill_(0.0)
            views[opacity] = render_views(field, camera, 24, 24, RenderConfig(samples=256)).opacity
            field.thickness.copy_(thick)
        bundle = rays(camera, 12, 12)
        seen = render_rays(field, bundle, RenderConfig(samples=24), generator=torch.Generator().manual_seed(0))
        (seen.rgb * torch.rand(seen.rgb.shape)).sum().backward()
        assert all(p.grad is not None and p.grad.abs().max() > 0 for g in field.groups() for p in g.parameters)
    assert views["neus"].max() > 0.99
    assert (views["neus"] - views["volsdf"]).abs().mean() < 0.03
    with pytest.raises(ConfigError, match="only a field of kind sdf has the opacity of neus"):
        FieldConfig(opacity="neus")


def test_the_body_stands_two_units_tall_and_faces_the_front(tmp_path: Any) -> None:
    places = torch.tensor([[0.0, 0.0, 1.2], list(HEAD), [0.14, 0.0, 0.5], [0.0, 0.0, 0.3], [0.0, 0.0, 2.2]])
    inside = body_distance(places) < 0
    assert inside.tolist() == [True, True, True, False, False]
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(1)) * 2 - torch.tensor([1.0, 1.0, 0.0])
    mirrored = points * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(body_distance(points), body_distance(mirrored), atol=1e-5, rtol=0)
    settings = FieldConfig(kind="sdf", resolution=64, template="body")
    mesh = extract_mesh(settings.build(), MeshConfig(resolution=72, threshold=1000.0, relative=0.5))
    assert mesh.is_watertight
    assert mesh.body_count == 1
    low, high = mesh.bounds
    assert high[2] - low[2] == pytest.approx(2.0, abs=0.08)
    assert -low[1] > high[1] + 0.02  # feet point to -y
    save_field(settings.build(), settings, tmp_path / "field")
    again = load_field(tmp_path / "field")
    assert isinstance(again, SdfField)
    assert torch.equal(again.distances, settings.build().state_dict()["distances"])
    with pytest.raises(ConfigError, match="only a field of kind sdf starts as a body"):
        FieldConfig(template="body")
    ball = FieldConfig(kind="sdf", blob=Blob(radius=0.5)).build()
    assert isinstance(ball, SdfField)
    assert ball.distance(torch.tensor([[0.75, 0.0, 0.75]])).item() == pytest.approx(0, abs=0.01)


def test_subjects_take_turns_in_the_base(learned: Learned) -> None:
    base, cameras = load_backbone(str(learned.subject.parent / "tiny"), **HERE), ring(2)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    before = {name: value.clone() for name, value in base.denoiser.state_dict().items()}
    config = DistillationConfig(guidance_scale=3.0)

    def score(guidance: AbstractGuidance) -> torch.Tensor:
        pixels = images.clone().requires_grad_()
        terms = guidance.terms(pixels, cameras, progress=0.5, generator=torch.Generator().manual_seed(3))
        return torch.autograd.grad(terms.terms["score"], pixels)[0]

    turns, expected = [], []
    for folder in (learned.subject, learned.word):
        artifact = Artifact.load(folder)
        prompt = artifact.concept.prompt(PROMPT)
        turns.append(TurnTaking(base, artifact.adapters(), lambda prompt=prompt: ScoreGuidance(base, prompt, config)))
        with artifact.applied(base):
            expected.append(score(ScoreGuidance(base, prompt, config)))
    found = [score(turns[0]), score(turns[1]), score(turns[0])]
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])
    assert torch.equal(found[2], found[0])
    assert (found[0] - found[1]).norm() > 1e-4 * found[0].norm()
    after = base.denoiser.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())


class Looking(AbstractGuidance):
    """Remembers how far away the cameras were."""

    def __init__(self) -> None:
        self.distances: list[float] = []

    def terms(self, images: torch.Tensor, cameras: Cameras, **_: Any) -> LossTerms:
        """See `AbstractGuidance.terms`."""
        self.distances.append(float((cameras.positions - torch.tensor(HEAD)).norm(dim=1).max()))
        return LossTerms({"score": images.sum()})


def test_close_ups_go_to_their_own_teacher() -> None:
    part = CloseUps(cameras=CameraLaw(distance=(1.4, 1.9), target=HEAD), share=0.4)
    shown = dataclasses.replace(
        stage(60, close_ups=part), field=FieldConfig(kind="sdf", resolution=12, template="body")
    )
    body, head = Looking(), Looking()
    loss = FieldLoss(shown.field.build(), shown, body, close=head)
    generator = torch.Generator().manual_seed(0)
    for step in range(40):
        loss(step, 0, generator)
    assert 8 <= len(head.distances) <= 24
    assert max(head.distances) < 2 < min(body.distances)
    with pytest.raises(UsageError, match="close-ups need a teacher of their own"):
        FieldLoss(shown.field.build(), shown, body)
    with pytest.raises(ConfigError, match="a share of the steps in"):
        CloseUps(cameras=CameraLaw(), share=1.0)


def test_views_grow_and_show_normals_from_the_front() -> None:
    recipe = RECIPES["avatarbooth"].build("sd", "paper")
    assert isinstance(recipe, AvatarTo3dRecipe)
    assert [recipe.field.side_at(step / 8000) for step in (0, 2999, 3000, 3999, 4000, 8000)] == [64, 64, 80, 80, 96, 96]
    with pytest.raises(ConfigError, match="rising shares"):
        DistillationConfig(growth=((0.5, 1.5), (0.2, 2.0)))
    backbone, seen = GaussianBackbone(), torch.zeros(1, 3, 64, 64, dtype=torch.float64)
    sides = [encode_views(backbone, seen, factor).shape[-1] for factor in (1.0, 2.0, 3.4)]
    assert sides == [8, 16, 24]  # the nearest multiple of eight cells
    generator, light = torch.Generator().manual_seed(0), Lighting(shaded=0.0, normals=0.5)
    shown = [
        [light.draw(orbit([a], [5.0], [5.0], [30.0]), 0.5, generator).shading for _ in range(40)] for a in (20, 90)
    ]
    assert 10 < shown[0].count("normals") < 30
    assert set(shown[1]) == {"albedo"}
    field = SdfField(48, radius=0.9)
    cameras = orbit([0.0], [0.0], [5.2], [32.0], (0.0, 0.0, 0.75))
    colors = render_views(field, cameras, 33, 33, RenderConfig(samples=128, shading="normals")).rgb[0]
    assert colors[:, 16, 16].tolist() == pytest.approx([0.5, 0.5, 1.0], abs=0.1)
    assert colors[0, 16, 23] > 0.6 > 0.4 > colors[0, 16, 9]  # right is red
    assert colors[1, 9, 16] > 0.6 > 0.4 > colors[1, 23, 16]  # up is green


def test_avatarbooth_makes_one_body_of_two_subjects(learned: Learned, tmp_path: Any) -> None:
    made = make(learned, tmp_path, "avatarbooth", colors="vertex")
    assert made.mesh.is_watertight
    start = FieldConfig(kind="sdf", resolution=16, template="body").build().state_dict()
    learned_field = made.shape.state_dict()
    assert all(not torch.equal(start[name], learned_field[name]) for name in start)
    with pytest.raises(UsageError, match="needs the head as a subject of its own"):
        make(learned, tmp_path, "avatarbooth", head=None, output=tmp_path / "other.glb")
    with pytest.raises(UsageError, match="takes no head"):
        make(learned, tmp_path, "dreamfusion", head=learned.word, output=tmp_path / "other.glb")
    assert not (tmp_path / "other.glb.work").exists()
