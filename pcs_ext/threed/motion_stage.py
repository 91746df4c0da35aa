"""A stage that sets a still scene in motion: a video model judges clips of it, an image model some frames."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.types import FitState, LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.threed.camera_laws import CameraLaw, draw_cameras
from pcs_ext.threed.cameras import Cameras, rays
from pcs_ext.threed.clip_guidance import ClipGuidance
from pcs_ext.threed.distillation import DistillationConfig
from pcs_ext.threed.guidance import AbstractGuidance
from pcs_ext.threed.moving_fields import AbstractMovingField, EverField, MotionConfig
from pcs_ext.threed.occupancy import Occupancy
from pcs_ext.threed.render import RenderConfig, render_rays


@config
class FrameScore:
    """An image model with the subject in it judges single frames beside the video model (Animate124, sec. 3.3)."""

    guidance: DistillationConfig = DistillationConfig()
    """How its score is taken."""
    weight: float = 1.0
    """Beside the clip's."""
    frames: int = 2
    """Of every clip, at random (Animate124: 2 of 16)."""
    since: float = 0.5
    """Share of training after which it begins, in [0, 1)."""

    def __post_init__(self) -> None:
        if self.frames < 1 or not 0 <= self.since < 1:
            raise ConfigError(f"expected at least one frame and a share in [0, 1), got {self.frames}, {self.since}.")


@config
class MotionStage:
    """How a scene learns to move."""

    motion: MotionConfig = MotionConfig()
    """How it may."""
    fit: FitConfig
    """Steps and optimiser."""
    guidance: DistillationConfig = DistillationConfig()
    """How the video model's score is taken."""
    noise_share: float = 0.0
    """Of noise that a clip's frames have in common, in [0, 1]."""
    frames: int = 8
    """Of a clip, from the first moment to the last."""
    pictures: FrameScore | None = None
    """Single frames judged by the image model; None: none."""
    cameras: CameraLaw = CameraLaw()
    """Where clips are seen from; the camera stands still."""
    side: int = 48
    """Of a frame, pixels."""
    samples: int = 48
    """Intervals per ray."""
    plain: float = 1.0
    """Grey behind the scene."""
    unrest: float = 1.0
    """Weight of what keeps motion smooth."""
    occupancy_every: int = 25
    """Steps between looks at which cells are empty at all moments; 0 asks the field everywhere."""

    def __post_init__(self) -> None:
        if self.frames < 2 or self.side < 8 or self.samples < 4 or self.cameras.views != 1:
            raise ConfigError(
                f"expected at least 2 frames of 8 pixels, 4 samples and single views, got {self.frames}, {self.side}, "
                f"{self.samples} and sets of {self.cameras.views}."
            )
        if not (0 <= self.noise_share <= 1 and 0 <= self.plain <= 1):
            raise ConfigError(f"expected shares in [0, 1], got {self.noise_share} and {self.plain}.")

    def with_steps(self, steps: int) -> "MotionStage":
        """The same stage in other steps.

        Raises:
            ConfigError: fewer than one.
        """
        return dataclasses.replace(self, fit=dataclasses.replace(self.fit, steps=steps))


class MotionLoss:
    """The terms of one step: a `Loss` for `fit`. Its state is which cells are occupied.

    Args:
        field: what trains.
        stage: how.
        clips: judges whole clips.
        pictures: judges single frames, where the stage wants it.
    """

    def __init__(
        self,
        field: AbstractMovingField,
        stage: MotionStage,
        clips: ClipGuidance,
        pictures: AbstractGuidance | None = None,
    ) -> None:
        assert (pictures is None) == (stage.pictures is None), "frames are judged where the stage says so"
        self.field, self.stage, self.clips, self.pictures = field, stage, clips, pictures
        self.occupancy = Occupancy(EverField(field)) if stage.occupancy_every else None
        if self.occupancy is not None:
            self.occupancy.update()

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """Terms of one draw of a camera, timesteps and noise."""
        stage, progress = self.stage, step / self.stage.fit.steps
        if self.occupancy is not None and step and micro_step == 0 and step % stage.occupancy_every == 0:
            self.occupancy.update()
        cameras = draw_cameras(stage.cameras, 1, generator)
        frames = clip_of(self.field, cameras, stage, self.occupancy, generator) * 2 - 1
        terms = self.clips.terms(frames, progress=progress, generator=generator)
        terms = terms + LossTerms({"unrest": stage.unrest * self.field.unrest()})
        if self.pictures is None or stage.pictures is None or progress < stage.pictures.since:
            return terms
        chosen = torch.randperm(stage.frames, generator=generator)[: stage.pictures.frames]
        judged = self.pictures.terms(frames[chosen], cameras[[0] * len(chosen)], progress=progress, generator=generator)
        judged = judged.scaled(stage.pictures.weight)
        return terms + LossTerms({f"frame/{name}": term for name, term in judged.terms.items()})

    def state_dict(self) -> dict[str, Tensor]:
        """The occupied cells, so that a resumed run skips the same space."""
        return {} if self.occupancy is None else {"cells": self.occupancy.cells}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        if self.occupancy is not None:
            self.occupancy.cells = state["cells"].bool()


def clip_of(
    field: AbstractMovingField,
    cameras: Cameras,
    stage: MotionStage,
    occupancy: Occupancy | None,
    generator: torch.Generator | None,
) -> Tensor:
    """Frames `f 3 side side` in [0, 1] of a clip seen by one camera that stands still; differentiable."""
    bundle, settings = rays(cameras, stage.side, stage.side), RenderConfig(samples=stage.samples)
    frames = [
        render_rays(
            field.at(index / (stage.frames - 1)),
            bundle,
            settings,
            background=stage.plain,
            occupancy=occupancy,
            generator=generator,
        ).rgb
        for index in range(stage.frames)
    ]
    return torch.stack(frames).view(stage.frames, stage.side, stage.side, 3).permute(0, 3, 1, 2)


def learn_motion(
    loss: MotionLoss, *, checkpoints: CheckpointFolder | None = None, reporter: Reporter | None = None
) -> Iterator[FitState]:
    """Let the guidances set the field in motion; yields after every step.

    Raises:
        DivergedError, CheckpointError, Interrupted: as `fit`.
    """
    yield from fit(
        loss,
        loss.field.groups(),
        loss.stage.fit,
        checkpoints=checkpoints,
        extra_state={"occupancy": loss},
        reporter=reporter,
    )
