"""A stage that edits splats inside a box: the whole scene and the new content alone are judged together."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.types import FitState, LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.threed.camera_laws import CameraLaw, draw_cameras
from pcs_ext.threed.distillation import DistillationConfig, TimestepLaw
from pcs_ext.threed.edited_splats import EditedSplats, Pruning
from pcs_ext.threed.guidance import AbstractGuidance
from pcs_ext.threed.splat_render import render_splats
from pcs_ext.threed.splats import SplatRates
from pcs_ext.threed.teach import taught


@config
class EditStage:
    """How the content of the box is learned (arXiv 2401.14828, sec. 4.2)."""

    count: int = 2000
    """Splats of the content, at the start."""
    raw_opacity: float = -4.5
    """Theirs at the start, before the sigmoid (TIP-Editor: -4.5)."""
    rates: SplatRates = SplatRates()
    """Of learning."""
    pruning: Pruning = Pruning()
    """Which are given up."""
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
    plain: float = 1.0
    """Grey behind the scene."""

    def __post_init__(self) -> None:
        shares = (*self.share, self.plain_until, self.plain)
        if not all(0 <= share <= 1 for share in shares) or self.views_per_step < 1 or self.cameras.views != 1:
            raise ConfigError(
                f"an edit takes shares in [0, 1], single views and at least one per step, got {shares}, "
                f"{self.cameras.views} and {self.views_per_step}."
            )
        if self.side < 8 or self.count < 1 or self.pruning.every < 1:
            raise ConfigError(
                f"expected views of at least 8 pixels, splats and steps between prunings, got {self.side}, "
                f"{self.count}, {self.pruning.every}."
            )

    def with_steps(self, steps: int) -> "EditStage":
        """The same stage in other steps.

        Raises:
            ConfigError: fewer than one.
        """
        return dataclasses.replace(self, fit=dataclasses.replace(self.fit, steps=steps))


class EditLoss:
    """The terms of one step: a `Loss` for `fit`. Its state is which splats are left.

    Args:
        splats: what trains inside its box.
        stage: how.
        whole: judges the scene.
        alone: judges the content.
    """

    def __init__(
        self, splats: EditedSplats, stage: EditStage, whole: AbstractGuidance, alone: AbstractGuidance
    ) -> None:
        self.splats, self.stage, self.whole, self.alone = splats, stage, whole, alone
        scale = splats.box.half / splats.bounds.half
        near, far = (distance * scale for distance in stage.cameras.distance)
        self.close = dataclasses.replace(stage.cameras, target=splats.box.middle, distance=(near, far))

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """Terms of one draw of cameras, background, timesteps and noise."""
        stage, progress = self.stage, step / self.stage.fit.steps
        if step and micro_step == 0 and step % stage.pruning.every == 0:
            self.splats.prune(stage.pruning)
        share = stage.share[0] + (stage.share[1] - stage.share[0]) * progress
        content = self.splats.content.cloud()
        plain = torch.full((3,), stage.plain)
        cameras = draw_cameras(stage.cameras, stage.views_per_step, generator)
        seen = render_splats(self.splats.scene.cloud() + content, cameras, stage.side, stage.side, background=plain)
        judged = self.whole.terms(seen.rgb * 2 - 1, cameras, progress=progress, generator=generator).scaled(share)
        terms = {f"scene/{name}": term for name, term in judged.terms.items()}
        cameras = draw_cameras(self.close, stage.views_per_step, generator)
        color = torch.rand(3, generator=generator)
        behind = plain if progress < stage.plain_until else color
        seen = render_splats(content, cameras, stage.side, stage.side, background=behind)
        judged = self.alone.terms(seen.rgb * 2 - 1, cameras, progress=progress, generator=generator).scaled(1 - share)
        return LossTerms(terms | {f"content/{name}": term for name, term in judged.terms.items()})

    def state_dict(self) -> dict[str, Tensor]:
        """The splats that are left, so that a resumed run has no others."""
        return {"alive": self.splats.content.alive}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        self.splats.content.alive.copy_(state["alive"])


def edit_splats(
    loss: EditLoss, *, checkpoints: CheckpointFolder | None = None, reporter: Reporter | None = None
) -> Iterator[FitState]:
    """Let two guidances fill the box; yields after every step.

    Raises:
        DivergedError, CheckpointError, Interrupted: as `fit`.
    """
    groups, settings = loss.splats.groups(loss.stage.rates), loss.stage.fit
    extra = {"splats": loss}
    yield from taught(loss, groups, loss.whole, settings, extra_state=extra, checkpoints=checkpoints, reporter=reporter)
