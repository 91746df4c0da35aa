"""The terms of a stage against closed forms; light and background."""

import dataclasses

import pytest
import torch

from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.types import LossTerms
from pcs_ext.threed.camera_laws import CameraLaw
from pcs_ext.threed.cameras import Cameras, ring
from pcs_ext.threed.distillation import DistillationConfig
from pcs_ext.threed.field_config import FieldConfig
from pcs_ext.threed.field_stage import FieldLoss, FieldStage, PosedPictures, Reconstruction, distil_field
from pcs_ext.threed.fields import Blob, HashField, VoxelField
from pcs_ext.threed.guidance import AbstractGuidance, ScoreGuidance
from pcs_ext.threed.lighting import Lighting
from tests.support.gaussian import GaussianBackbone


class Silent(AbstractGuidance):
    """A guidance that wants nothing; keeps what it was shown."""

    def __init__(self) -> None:
        self.shown: list[torch.Tensor] = []

    def terms(
        self, images: torch.Tensor, cameras: Cameras, *, progress: float, generator: torch.Generator
    ) -> LossTerms:
        """See the base class."""
        self.shown.append(images.detach())
        return LossTerms({"score": images.sum() * 0})


STAGE = FieldStage(
    fit=FitConfig(steps=4, optimizer="adam"), side=8, samples=8, lighting=Lighting(shaded=0.0, random_background=0.0)
)


@pytest.mark.parametrize(("norm", "error"), [(1, 0.5), (2, 0.25)])
def test_reconstruction_sums_one_views_pixels(norm: int, error: float) -> None:
    field = VoxelField(8)
    with torch.no_grad():
        field.density_grid.fill_(-30.0)
    settings = Reconstruction(weight=2.0, norm=norm, rays_per_step=50)  # pyright: ignore[reportArgumentType]
    stage = dataclasses.replace(STAGE, reconstruction=settings)
    pictures = PosedPictures(ring(3), torch.full((3, 3, 6, 10), 0.5))
    terms = FieldLoss(field, stage, Silent(), pictures)(0, 0, torch.Generator().manual_seed(0)).terms
    assert terms["pictures"].item() == pytest.approx(2.0 * error * 3 * 60, rel=1e-4)
    with pytest.raises(UsageError, match="one picture per camera, got 3 for 2"):
        FieldLoss(field, stage, Silent(), PosedPictures(ring(2), pictures.images))


def test_a_gaussian_teacher_paints_a_field_in_its_mean_colour() -> None:
    backbone = GaussianBackbone(mean=0.3, variance=0.01)
    field = VoxelField(8, blob=Blob(height=60.0, radius=3.0))  # a solid cube that fills every view
    stage = dataclasses.replace(
        STAGE,
        fit=FitConfig(steps=60, optimizer="adam", lr_schedule="cosine", betas=(0.9, 0.99), max_gradient_norm=None),
        cameras=CameraLaw(fov=(8.0, 8.0)),
    )
    guidance = ScoreGuidance(backbone, "a", DistillationConfig(guidance_scale=1.0))
    for _ in distil_field(field, stage, guidance):
        pass
    silent = Silent()
    FieldLoss(field, stage, silent)(0, 0, torch.Generator().manual_seed(5))
    wanted = torch.linalg.solve(backbone.mixing, torch.full((3,), 0.3, dtype=torch.float64)).float()
    assert (silent.shown[0].mean((0, 2, 3)) - wanted).abs().max() < 0.08


def test_a_field_of_another_stage_stays_as_fine_as_it_was() -> None:
    stage = dataclasses.replace(STAGE, field=FieldConfig(kind="hash"))
    fresh, handed_on = (stage.field.build() for _ in range(2))
    assert isinstance(fresh, HashField)
    assert isinstance(handed_on, HashField)
    FieldLoss(fresh, stage, Silent())(0, 0, torch.Generator().manual_seed(0))
    FieldLoss(handed_on, stage, Silent(), grown=True)(0, 0, torch.Generator().manual_seed(0))
    assert (fresh.grid.open_levels, handed_on.grid.open_levels) == (4, 8)


def test_shading_waits_and_backgrounds_vary() -> None:
    lighting, cameras = Lighting(albedo_until=0.2, shaded=0.75, textureless=0.5), ring(2)
    generator = torch.Generator().manual_seed(0)
    assert {lighting.draw(cameras, 0.1, generator).shading for _ in range(50)} == {"albedo"}
    drawn = [lighting.draw(cameras, 0.5, generator) for _ in range(400)]
    share = {kind: sum(one.shading == kind for one in drawn) / 400 for kind in ("albedo", "lambertian", "textureless")}
    assert share["albedo"] == pytest.approx(0.25, abs=0.08)
    assert share["textureless"] == pytest.approx(0.375, abs=0.08)
    plain = sum(bool((one.background == 1).all()) for one in drawn) / 400
    assert plain == pytest.approx(0.5, abs=0.08)
    assert all((one.background[0] == one.background[1]).all() for one in drawn)
    # The light stays on the camera's side.
    ahead = torch.stack([(one.light * cameras.positions).sum(1) > 0 for one in drawn])
    assert ahead.float().mean() > 0.9
    with pytest.raises(ConfigError, match=r"shares in \[0, 1\]"):
        Lighting(shaded=1.5)


def test_a_stage_refuses_what_cannot_be_drawn() -> None:
    with pytest.raises(ConfigError, match="a positive multiple of 4 views, got 2"):
        dataclasses.replace(STAGE, cameras=CameraLaw(views=4), views_per_step=2)
    with pytest.raises(ConfigError, match="at least 8 pixels"):
        dataclasses.replace(STAGE, side=4)
