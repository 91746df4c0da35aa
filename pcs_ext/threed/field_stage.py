"""One stage of a recipe: a field learns from a guidance, and from posed pictures where there are some."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.types import FitState, LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.threed.camera_laws import CameraLaw, draw_cameras
from pcs_ext.threed.cameras import Cameras, rays
from pcs_ext.threed.distillation import DistillationConfig
from pcs_ext.threed.field_config import FieldConfig
from pcs_ext.threed.fields import AbstractField, VoxelField
from pcs_ext.threed.guidance import AbstractGuidance, GuidanceConfig
from pcs_ext.threed.known_view import KnownPhoto, KnownView, known_terms
from pcs_ext.threed.lighting import Lighting
from pcs_ext.threed.occupancy import Occupancy
from pcs_ext.threed.regularizers import (
    distortion_loss,
    eikonal_loss,
    entropy_loss,
    opacity_loss,
    orientation_loss,
    total_variation,
)
from pcs_ext.threed.render import RenderConfig, RenderedRays, render_rays
from pcs_ext.threed.sdf_field import SdfField
from pcs_ext.threed.teach import taught


@config
class Penalties:
    """Weights of the regularisers. The score's term is a sum over a view's latent cells, so these are larger than
    beside a mean."""

    opacity: float = 0.0
    """Of `opacity_loss` (DreamFusion: 1e-3 beside a mean; threestudio: 1)."""
    entropy: float = 0.0
    """Of `entropy_loss`."""
    orientation: float = 0.0
    """Of `orientation_loss`, reached halfway; needs shaded views, counts in those alone."""
    distortion: float = 0.0
    """Of `distortion_loss`."""
    variation: float = 0.0
    """Of `total_variation`, voxel fields alone; of a field of signed distances its colours'."""
    eikonal: float = 0.0
    """Of `eikonal_loss`, fields of signed distances alone (AvatarBooth: 0.1)."""


@config
class CloseUps:
    """Views of a part, which another model judges (AvatarBooth: the head)."""

    cameras: CameraLaw
    """Where they come from."""
    share: float = 0.3
    """Of the steps, in (0, 1)."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"close-ups take a share of the steps in (0, 1), got {self.share}.")


@config
class Reconstruction:
    """How much posed pictures count beside the guidance."""

    weight: float = 0.0
    """Of the summed error of one view's pixels, as the score is a sum over one view's latent cells; 0: not at all."""
    norm: Literal[1, 2] = 1
    """p of |render - picture|^p."""
    rays_per_step: int = 1024
    """Drawn from all pixels of all pictures."""


@config
class FieldStage:
    """How a field learns in one stage."""

    field: FieldConfig = FieldConfig()
    """What it starts as, unless a field is handed on."""
    fit: FitConfig
    """Steps and optimiser."""
    guidance: GuidanceConfig = DistillationConfig()
    """What the model's score does."""
    cameras: CameraLaw = CameraLaw()
    """Where views come from."""
    close_ups: CloseUps | None = None
    """A part that is looked at by itself; None: none."""
    views_per_step: int = 1
    """A multiple of `cameras.views`."""
    side: int = 64
    """Of a rendered view, pixels."""
    samples: int = 64
    """Intervals per ray."""
    lighting: Lighting = Lighting()
    """Shading and background of each step."""
    penalties: Penalties = Penalties()
    """Weights of the regularisers."""
    reconstruction: Reconstruction = Reconstruction()
    """Where posed pictures are handed in."""
    known: KnownView | None = None
    """Camera of the one photo that some steps look at, and at nothing else; None: there is none."""
    occupancy_every: int = 25
    """Steps between looks at which cells are empty; 0 asks the field everywhere."""

    def __post_init__(self) -> None:
        if self.views_per_step < 1 or self.views_per_step % self.cameras.views:
            raise ConfigError(
                f"views_per_step must be a positive multiple of {self.cameras.views} views, got {self.views_per_step}."
            )
        if self.close_ups is not None and self.close_ups.cameras.views != self.cameras.views:
            raise ConfigError("close-ups must come in sets of as many views as the others.")
        if self.side < 8 or self.samples < 4:
            raise ConfigError(f"expected views of at least 8 pixels and 4 samples, got {self.side}, {self.samples}.")

    def side_at(self, progress: float) -> int:
        """Of a rendered view at a training progress in [0, 1], pixels; it grows with what the guidance judges."""
        factor = self.guidance.factor(progress) if isinstance(self.guidance, DistillationConfig) else 1.0
        return round(self.side * factor)

    def with_steps(self, steps: int) -> "FieldStage":
        """The same stage in other steps.

        Raises:
            ConfigError: fewer than one.
        """
        return dataclasses.replace(self, fit=dataclasses.replace(self.fit, steps=steps))


@dataclasses.dataclass(frozen=True)
class PosedPictures:
    """Pictures with their cameras."""

    cameras: Cameras
    images: Tensor
    """`b 3 h w` in [0, 1], over `background`."""
    background: float = 1.0
    """Grey behind the object in them, in [0, 1]."""


class FieldLoss:
    """The terms of one step, on the field's device: a `Loss` for `fit`. Its state is which cells are occupied.

    Args:
        field: what trains.
        stage: how.
        guidance: the teacher.
        pictures: to reconstruct weakly; None: none.
        close: the teacher of close-ups, where the stage has some.
        photo: what the known camera sees, where the stage has one.
        grown: the field comes from another stage, and is as fine from the first step on as it was there at the end.
    """

    def __init__(
        self,
        field: AbstractField,
        stage: FieldStage,
        guidance: AbstractGuidance,
        pictures: PosedPictures | None = None,
        close: AbstractGuidance | None = None,
        photo: KnownPhoto | None = None,
        grown: bool = False,
    ) -> None:
        if (close is None) != (stage.close_ups is None):
            raise UsageError("close-ups need a teacher of their own, and only they do.")
        if (photo is None) != (stage.known is None):
            raise UsageError("a known camera needs its photo, and a photo its camera.")
        self.photo = None if photo is None or stage.known is None else photo.at(stage.known.side).to(field.device)
        self.field, self.stage, self.guidance, self.close, self.grown = field, stage, guidance, close, grown
        self.occupancy = Occupancy(field) if stage.occupancy_every else None
        self.pictures = pictures if stage.reconstruction.weight > 0 else None
        if self.pictures is not None:
            images = self.pictures.images
            if images.dim() != 4 or len(images) != len(self.pictures.cameras):
                raise UsageError(
                    f"expected one picture per camera, got {len(images)} for {len(self.pictures.cameras)} cameras."
                )
            self.bundle = rays(self.pictures.cameras.to(field.device), *images.shape[2:])
            self.colors = images.to(field.device).permute(0, 2, 3, 1).reshape(-1, 3)

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """Terms of one draw of cameras, light, timesteps, noise and rays."""
        stage, progress = self.stage, step / self.stage.fit.steps
        self.field.advance(1.0 if self.grown else progress)
        if self.occupancy is not None and step and micro_step == 0 and step % stage.occupancy_every == 0:
            self.occupancy.update()
        if stage.known is not None and stage.known.due(step):
            return self._known(stage.known, progress, generator)
        law, guidance = self._looked_at(generator)
        cameras = draw_cameras(law, stage.views_per_step, generator)
        rendered, shaded = self._render(cameras, progress, generator)
        side = stage.side_at(progress)
        images = rendered.rgb.view(len(cameras), side, side, 3).permute(0, 3, 1, 2) * 2 - 1
        terms = guidance.terms(images, cameras, progress=progress, generator=generator)
        terms = terms + LossTerms(self._penalties(rendered, shaded, progress))
        return terms if self.pictures is None else terms + LossTerms({"pictures": self._reconstruct(generator)})

    def _known(self, known: KnownView, progress: float, generator: torch.Generator) -> LossTerms:
        """Terms of a step that looks at the photo."""
        assert self.photo is not None, "checked with the stage"
        terms, seen = known_terms(
            self.field,
            self.photo,
            known,
            samples=self.stage.samples,
            occupancy=self.occupancy,
            generator=generator,
        )
        return terms + LossTerms(self._penalties(seen, False, progress))

    def _looked_at(self, generator: torch.Generator) -> tuple[CameraLaw, AbstractGuidance]:
        """Where this step's cameras stand, and who judges what they see."""
        part = self.stage.close_ups
        if part is None or self.close is None or float(torch.rand((), generator=generator)) >= part.share:
            return self.stage.cameras, self.guidance
        return part.cameras, self.close

    def _render(self, cameras: Cameras, progress: float, generator: torch.Generator) -> tuple[RenderedRays, bool]:
        stage, side = self.stage, self.stage.side_at(progress)
        drawn = stage.lighting.draw(cameras, progress, generator).to(self.field.device)
        rendered = render_rays(
            self.field,
            rays(cameras.to(self.field.device), side, side),
            RenderConfig(samples=stage.samples, shading=drawn.shading, ambient=stage.lighting.ambient),
            background=drawn.background.repeat_interleave(side**2, 0),
            light=drawn.light.repeat_interleave(side**2, 0),
            occupancy=self.occupancy,
            generator=generator,
        )
        return rendered, drawn.shading != "albedo"

    def _penalties(self, rendered: RenderedRays, shaded: bool, progress: float) -> dict[str, Tensor]:
        weights, terms = self.stage.penalties, {}
        if weights.opacity:
            terms["opacity"] = weights.opacity * opacity_loss(rendered.opacity)
        if weights.entropy:
            terms["entropy"] = weights.entropy * entropy_loss(rendered.opacity)
        if weights.orientation and shaded:
            terms["orientation"] = weights.orientation * min(2 * progress, 1.0) * orientation_loss(rendered)
        if weights.distortion:
            spread = distortion_loss(rendered.weights, rendered.distances, rendered.widths)
            terms["distortion"] = weights.distortion * spread
        if weights.variation and isinstance(self.field, VoxelField):
            variation = total_variation(self.field.density_grid) + total_variation(self.field.albedo_grid)
            terms["variation"] = weights.variation * variation
        if weights.variation and isinstance(self.field, SdfField):
            terms["variation"] = weights.variation * total_variation(self.field.albedo_grid)
        if weights.eikonal and isinstance(self.field, SdfField):
            terms["eikonal"] = weights.eikonal * eikonal_loss(self.field.slopes())
        return terms

    def _reconstruct(self, generator: torch.Generator) -> Tensor:
        assert self.pictures is not None
        settings = self.stage.reconstruction
        index = torch.randint(len(self.bundle), (settings.rays_per_step,), generator=generator)
        rendered = render_rays(
            self.field,
            self.bundle[index],
            RenderConfig(samples=self.stage.samples),
            background=self.pictures.background,
            occupancy=self.occupancy,
            generator=generator,
        )
        error = (rendered.rgb - self.colors[index]).abs()
        summed = (error if settings.norm == 1 else error.square()).sum(-1).mean()
        return settings.weight * summed * (len(self.bundle) / len(self.pictures.cameras))

    def state_dict(self) -> dict[str, Tensor]:
        """The occupied cells, so that a resumed run skips the same space."""
        return {} if self.occupancy is None else {"cells": self.occupancy.cells}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        if self.occupancy is not None:
            self.occupancy.cells = state["cells"].bool().to(self.field.device)


def distil_field(
    field: AbstractField,
    stage: FieldStage,
    guidance: AbstractGuidance,
    *,
    pictures: PosedPictures | None = None,
    close: AbstractGuidance | None = None,
    photo: KnownPhoto | None = None,
    grown: bool = False,
    checkpoints: CheckpointFolder | None = None,
    reporter: Reporter | None = None,
) -> Iterator[FitState]:
    """Let a guidance teach a field; yields after every step, like the core's `fit`.

    Args:
        field: changed in place.
        stage: how.
        guidance: a frozen model and a prompt.
        pictures: reconstructed weakly beside it.
        close: judges close-ups, where the stage has some.
        photo: what the known camera sees, where the stage has one.
        grown: the field comes from another stage; see `FieldLoss`.
        checkpoints: where to save and resume; None keeps nothing.
        reporter: hears of a resume.

    Raises:
        UsageError: pictures and cameras that do not match, close-ups without their teacher, or a known camera without
            its photo.
        DivergedError, CheckpointError, Interrupted: as `fit`.
    """
    loss = FieldLoss(field, stage, guidance, pictures, close, photo, grown)
    yield from taught(
        loss,
        field.groups(),
        guidance,
        stage.fit,
        extra_state={"occupancy": loss},
        checkpoints=checkpoints,
        reporter=reporter,
    )
