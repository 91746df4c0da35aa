"""Fields, surfaces, splats and materials are where their base is: on a device that is not the CPU nothing is mixed."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.types import LossTerms
from pcs_ext.reporter import SilentReporter
from pcs_ext.threed.box import Box
from pcs_ext.threed.cameras import ring
from pcs_ext.threed.distillation import RECONSTRUCTION, DistillationConfig
from pcs_ext.threed.edit_stage import EditLoss, EditStage
from pcs_ext.threed.edited_splats import EditedConfig, EditedSplats
from pcs_ext.threed.field_config import FieldConfig
from pcs_ext.threed.field_fit import FieldFitConfig, PictureLoss
from pcs_ext.threed.field_stage import FieldLoss, FieldStage, Penalties, PosedPictures, Reconstruction
from pcs_ext.threed.guidance import build_guidance
from pcs_ext.threed.job import Job
from pcs_ext.threed.known_view import KnownPhoto, KnownView
from pcs_ext.threed.lighting import Lighting
from pcs_ext.threed.materials import MaterialConfig
from pcs_ext.threed.mesh import densities
from pcs_ext.threed.multiview import MultiViewAdapter
from pcs_ext.threed.occupancy import Occupancy
from pcs_ext.threed.render import RenderConfig, render_views
from pcs_ext.threed.request import MakeOptions, read_request
from pcs_ext.threed.shapes import preview_sheet
from pcs_ext.threed.splats import Splats, SplatsConfig
from pcs_ext.threed.surface import SurfaceConfig, TetSurface
from pcs_ext.threed.surface_stage import SurfaceLoss, SurfaceStage
from pcs_ext.threed.texture_stage import TextureLoss, TextureStage
from pcs_ext.threed.variational import VariationalConfig
from pcs_ext.threed.work import WorkFolder
from tests.support.elsewhere import ELSEWHERE, MixedDevicesError, elsewhere, moved
from tests.support.small_jobs import HERE, PROMPT, Learned, small
from tests.support.tiny import tiny_backbone

FIT = FitConfig(steps=4)


@pytest.fixture
def base(tmp_path: Path) -> Iterator[AbstractUnetBackbone]:
    """A tiny Stable Diffusion elsewhere."""
    backbone = tiny_backbone(tmp_path / "sd")
    assert isinstance(backbone, AbstractUnetBackbone)
    with elsewhere():
        yield moved(backbone)


def taught(loss: object, module: nn.Module, steps: tuple[int, ...] = (0, 3)) -> None:
    """The loss's gradients reach the module where it is."""
    for step in steps:
        terms = loss(step, 0, torch.Generator().manual_seed(step))  # type: ignore[operator]
        assert isinstance(terms, LossTerms)
        assert terms.total.device == ELSEWHERE
        terms.total.backward()
    found = [value.grad for value in module.parameters() if value.requires_grad and value.grad is not None]
    assert any(float(grad.abs().sum()) > 0 for grad in found)
    assert all(grad.device == ELSEWHERE for grad in found)


def test_such_a_device_refuses_what_a_gpu_refuses() -> None:
    with elsewhere() as device:
        there = torch.ones(3).to(device)
        assert (there + torch.ones(3, device=device)).device == device
        assert (there * torch.tensor(2.0)).cpu().tolist() == [2.0, 2.0, 2.0]
        with pytest.raises(MixedDevicesError, match=r"aten\.add"):
            torch.add(there, torch.ones(3))
        with pytest.raises(MixedDevicesError, match="numpy"):
            there.numpy()


@pytest.mark.parametrize("kind", ["voxel", "hash", "sdf"])
def test_a_field_learns_where_its_base_is(base: AbstractUnetBackbone, kind: str) -> None:
    settings = FieldConfig(kind=kind, resolution=8)  # type: ignore[arg-type]
    field = settings.build().to(base.device)
    penalties = Penalties(opacity=1.0, entropy=1.0, orientation=1.0, distortion=1.0, variation=1.0, eikonal=1.0)
    stage = FieldStage(
        field=settings, fit=FIT, side=16, samples=6, occupancy_every=1, penalties=penalties,
        lighting=Lighting(albedo_until=0.0, shaded=1.0), reconstruction=Reconstruction(weight=1.0, rays_per_step=16),
    )  # fmt: skip
    cameras = ring(2)
    pictures = PosedPictures(cameras, torch.rand(2, 3, 8, 8))
    guidance = build_guidance(base, "a dog", DistillationConfig(perp_neg=kind == "hash"))
    loss = FieldLoss(field, stage, guidance, pictures)
    taught(loss, field)
    seen = render_views(field, cameras, 8, 8, RenderConfig(samples=4, normals=True))
    assert seen.normals is not None
    assert {part.device.type for part in (seen.rgb, seen.opacity, seen.depth, seen.normals)} == {"cpu"}
    assert preview_sheet(field, side=8, samples=4, views=2)[1:4] == b"PNG"
    assert densities(field, 6).shape == (6, 6, 6)
    occupancy = Occupancy(field, 8)
    occupancy.update(torch.Generator().manual_seed(0))
    assert occupancy.cells.device == ELSEWHERE
    fitted = PictureLoss(field, cameras, pictures.images, FieldFitConfig(rays_per_step=16, occupancy_every=1))
    taught(fitted, field)


def test_a_known_photo_is_looked_at_where_the_field_is(base: AbstractUnetBackbone) -> None:
    settings, known = FieldConfig(resolution=8), KnownView(first=1, every=2, side=8)
    photo = KnownPhoto(torch.rand(3, 12, 12), (torch.rand(12, 12) > 0.5).float(), torch.rand(12, 12))
    stage = FieldStage(field=settings, fit=FIT, side=16, samples=6, known=known)
    field = settings.build().to(base.device)
    loss = FieldLoss(field, stage, build_guidance(base, "a dog", DistillationConfig()), photo=photo)
    taught(loss, field, (0, 1))  # the photo, then the base


@pytest.mark.parametrize("kind", ["variational", "joint"])
def test_other_guidances_are_where_their_base_is(base: AbstractUnetBackbone, kind: str) -> None:
    settings, joint = FieldConfig(resolution=8), None
    score = VariationalConfig() if kind == "variational" else RECONSTRUCTION
    stage = FieldStage(field=settings, fit=FIT, side=16, samples=6, guidance=score)
    if kind == "joint":
        joint = MultiViewAdapter.of(base)
        cameras = dataclasses.replace(stage.cameras, views=2)
        stage = dataclasses.replace(stage, cameras=cameras, views_per_step=2)
    field = settings.build().to(base.device)
    guidance = build_guidance(base, "a dog", score, joint=joint, views=stage.cameras.views)
    with guidance.applied():
        taught(FieldLoss(field, stage, guidance), field, (0,))


def test_a_job_takes_its_multi_view_adapter_to_its_base(learned: Learned, tmp_path: Path) -> None:
    options = MakeOptions(config=small("mvdream", tmp_path), multiview=learned.multiview, **HERE)
    request = read_request(learned.subject, PROMPT, options)
    backbone = load_backbone(request.base, **HERE)
    assert isinstance(backbone, AbstractUnetBackbone)
    assert request.joint is not None
    with elsewhere():
        Job(request, moved(backbone), WorkFolder(tmp_path / "work", {}), SilentReporter())
        assert {value.device for value in request.joint.parameters()} == {ELSEWHERE}


def test_a_surface_and_materials_learn_where_their_base_is(base: AbstractUnetBackbone) -> None:
    settings = SurfaceConfig(cells=8, materials=MaterialConfig(resolution=8))
    surface = TetSurface(settings).to(base.device)
    guidance = build_guidance(base, "a dog", DistillationConfig())
    taught(SurfaceLoss(surface, SurfaceStage(surface=settings, fit=FIT, side=16, evenness=1.0), guidance), surface)
    assert preview_sheet(surface, side=8)[1:4] == b"PNG"
    still = TetSurface(settings).mesh()
    for kind in ("voxel", "hash"):
        materials = MaterialConfig(kind=kind, resolution=8).build(settings.bounds).to(base.device)  # type: ignore[arg-type]
        stage = TextureStage(fit=FIT, side=16)
        taught(TextureLoss(materials, still, stage, guidance, base), materials, (0,))


def test_splats_learn_where_their_base_is(base: AbstractUnetBackbone) -> None:
    box = Box(low=(-0.5, -0.5, 0.2), high=(0.5, 0.5, 1.2))
    scene = Splats(SplatsConfig(count=20))
    with torch.no_grad():
        scene.places.copy_(
            torch.rand(20, 3, generator=torch.Generator().manual_seed(0)) + torch.tensor([-0.5, -0.5, 0.3])
        )
    splats = EditedSplats(EditedConfig(scene=scene.settings, content=SplatsConfig(count=10), box=box, mode="add"))
    splats.begin(scene, 0.0, 0)
    splats.to(base.device)
    guidance = build_guidance(base, "a dog", DistillationConfig())
    taught(EditLoss(splats, EditStage(fit=FIT, side=16, count=10), guidance, guidance), splats.content)
    assert preview_sheet(splats, side=8)[1:4] == b"PNG"
