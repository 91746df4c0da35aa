"""A stage that edits a field inside a box: the whole scene and the new content alone are judged together."""

import dataclasses
from collections.abc import Iterator

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.types import FitState, LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.threed.camera_laws import CameraLaw, draw_cameras
from pcs_ext.threed.cameras import Cameras, rays
from pcs_ext.threed.distillation import DistillationConfig, TimestepLaw
from pcs_ext.threed.edited_field import EditedField
from pcs_ext.threed.fields import AbstractField, Blob, VoxelField
from pcs_ext.threed.guidance import AbstractGuidance
from pcs_ext.threed.regularizers import entropy_loss, opacity_loss, total_variation
from pcs_ext.threed.render import RenderConfig, RenderedRays, render_rays
from pcs_ext.threed.teach import taught


@config
class EditStage:
    """How the content of the box is learned (arXiv 2401.14828, sec. 4.2)."""

    resolution: int = 64
    """Samples per side of the content's voxels."""
    blob: Blob = Blob(height=2.0, radius=0.5)
    """Where its density starts. Chosen: nearly transparent, as the paper's splats start."""
    fit: FitConfig
    """Steps and optimiser."""
    guidance: DistillationConfig = DistillationConfig(
        guidance_scale=11.0, timesteps=TimestepLaw(low=(0.02, 0.02), high=(0.75, 0.25), until=1.0), max_gradient=1.0
    )
    """Of both scores (TIP-Editor: 10 in its own form, noise from 0.75 down to 0.25, gradients within 1)."""
    share: tuple[float, float] = (0.99, 0.5)
    """Of the whole scene's score, at the start and at the end, linear between (TIP-Editor: 0.99 to 0.5)."""
    plain_until: float = 0.1
    """Share of training in which the content alone stands before the plain background, not before random colours
    (TIP-Editor: 500 of 5,000 steps)."""
    cameras: CameraLaw = CameraLaw()
    """Of the whole scene; views of the content look at the box from as many of its sizes away."""
    views_per_step: int = 1
    """At least 1."""
    side: int = 64
    """Of a rendered view, pixels."""
    samples: int = 64
    """Intervals per ray."""
    plain: float = 1.0
    """Grey behind the scene."""
    opacity: float = 0.0
    """Of `opacity_loss` of the content alone (TIP-Editor: none). At first its score counts for a hundredth: much more
    than that empties the box."""
    entropy: float = 0.0
    """Of `entropy_loss` of the content alone (TIP-Editor: none)."""
    variation: float = 0.0
    """Of `total_variation` of the content's raw density and colour. Splats have an extent of their own; voxels without
    this turn to dust."""

    def __post_init__(self) -> None:
        shares = (*self.share, self.plain_until, self.plain)
        if not all(0 <= share <= 1 for share in shares) or self.views_per_step < 1 or self.cameras.views != 1:
            raise ConfigError(
                f"an edit takes shares in [0, 1], single views and at least one per step, got {shares}, "
                f"{self.cameras.views} and {self.views_per_step}."
            )
        if self.side < 8 or self.samples < 4:
            raise ConfigError(f"expected views of at least 8 pixels and 4 samples, got {self.side}, {self.samples}.")

    def with_steps(self, steps: int) -> "EditStage":
        """The same stage in other steps.

        Raises:
            ConfigError: fewer than one.
        """
        return dataclasses.replace(self, fit=dataclasses.replace(self.fit, steps=steps))


class EditLoss:
    """The terms of one step: a `Loss` for `fit`.

    Args:
        field: what trains inside its box.
        stage: how.
        whole: judges the scene.
        alone: judges the content.
    """

    def __init__(self, field: EditedField, stage: EditStage, whole: AbstractGuidance, alone: AbstractGuidance) -> None:
        self.field, self.stage, self.whole, self.alone = field, stage, whole, alone
        self.content, box = field.alone(), field.box
        scale = box.half / field.bounds.half
        near, far = (distance * scale for distance in stage.cameras.distance)
        self.close = dataclasses.replace(stage.cameras, target=box.middle, distance=(near, far))

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """Terms of one draw of cameras, background, timesteps and noise."""
        stage, progress = self.stage, step / self.stage.fit.steps
        self.field.advance(progress)
        share = stage.share[0] + (stage.share[1] - stage.share[0]) * progress
        cameras = draw_cameras(stage.cameras, stage.views_per_step, generator)
        seen, _ = self._views(self.field, cameras, torch.full((3,), stage.plain), generator)
        judged = self.whole.terms(seen, cameras, progress=progress, generator=generator).scaled(share)
        terms = {f"scene/{name}": term for name, term in judged.terms.items()}
        cameras = draw_cameras(self.close, stage.views_per_step, generator)
        color = torch.rand(3, generator=generator)
        behind = torch.full((3,), stage.plain) if progress < stage.plain_until else color
        seen, rendered = self._views(self.content, cameras, behind, generator)
        judged = self.alone.terms(seen, cameras, progress=progress, generator=generator).scaled(1 - share)
        terms |= {f"content/{name}": term for name, term in judged.terms.items()}
        terms["opacity"] = stage.opacity * opacity_loss(rendered.opacity)
        terms["entropy"] = stage.entropy * entropy_loss(rendered.opacity)
        grids = self.field.content
        if stage.variation and isinstance(grids, VoxelField):
            variation = total_variation(grids.density_grid) + total_variation(grids.albedo_grid)
            terms["variation"] = stage.variation * variation
        return LossTerms(terms)

    def _views(
        self, field: AbstractField, cameras: Cameras, background: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, RenderedRays]:
        """Pictures `b 3 side side` in [-1, 1], and their rays."""
        side = self.stage.side
        settings = RenderConfig(samples=self.stage.samples)
        rendered = render_rays(field, rays(cameras, side, side), settings, background=background, generator=generator)
        return rendered.rgb.view(len(cameras), side, side, 3).permute(0, 3, 1, 2) * 2 - 1, rendered


def edit_field(
    loss: EditLoss, *, checkpoints: CheckpointFolder | None = None, reporter: Reporter | None = None
) -> Iterator[FitState]:
    """Let two guidances fill the box; yields after every step.

    Raises:
        DivergedError, CheckpointError, Interrupted: as `fit`.
    """
    groups, settings = loss.field.groups(), loss.stage.fit
    yield from taught(loss, groups, loss.whole, settings, checkpoints=checkpoints, reporter=reporter)
