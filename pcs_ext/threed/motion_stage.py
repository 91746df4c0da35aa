"""A stage that sets a still scene in motion: a video model judges clips of it, an image model some frames."""

import contextlib
import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.types import FitState, LossTerms
from pcs_ext.reporter import Reporter
from pcs_ext.threed.camera_laws import CameraLaw, draw_cameras
from pcs_ext.threed.cameras import Cameras, orbit, rays
from pcs_ext.threed.clip_guidance import ClipGuidance
from pcs_ext.threed.distillation import DistillationConfig
from pcs_ext.threed.guidance import AbstractGuidance
from pcs_ext.threed.known_view import KnownPhoto, KnownView, known_terms
from pcs_ext.threed.moving_fields import AbstractMovingField, EverField, MotionConfig
from pcs_ext.threed.occupancy import Occupancy
from pcs_ext.threed.render import RenderConfig, render_rays
from pcs_ext.threed.view_guidance import ViewScore


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
    tile: Literal["coarse", "render"] = "coarse"
    """What a ControlNet is shown, where there is one: the same frame of the scene as it was when this began, or as it
    is now; the first keeps errors from adding up (the released code's way)."""

    def __post_init__(self) -> None:
        if self.frames < 1 or not 0 <= self.since < 1:
            raise ConfigError(f"expected at least one frame and a share in [0, 1), got {self.frames}, {self.since}.")


@config
class FirstMoment:
    """What holds the first moment to the photo where it may change (Animate124, sec. 3.2)."""

    known: KnownView = KnownView()
    """The photo's camera: some steps look at it from there, and at nothing else."""
    view: ViewScore = ViewScore()
    """How a view model judges a clip's first frame, where there is one."""
    share: float = 0.2
    """Of the steps in which it does, in [0, 1] (Animate124: a fifth of its clips start at the first moment)."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ConfigError(f"the first frame is judged in a share of the steps in [0, 1], got {self.share}.")


@dataclasses.dataclass(frozen=True)
class HeldFirst:
    """Who holds the first moment."""

    photo: KnownPhoto
    """Of the known view's side."""
    view: AbstractGuidance | None = None
    """A view model's score; None: the photo alone."""


Showing = Callable[[Tensor], contextlib.AbstractContextManager[None]]
"""Shows frames `n 3 h w` in [0, 1] to the image model's ControlNet."""


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
    first: FirstMoment | None = None
    """What holds a first moment that is free; None: it is the still scene."""
    cameras: CameraLaw = CameraLaw()
    """Where clips are seen from."""
    moving_camera: float = 0.0
    """Share of clips whose camera goes evenly from one such place to another, in [0, 1] (Animate124: 0.9); in the
    others it stands still."""
    side: int = 48
    """Of a frame, pixels."""
    samples: int = 48
    """Intervals per ray."""
    plain: float = 1.0
    """Grey behind the scene."""
    unrest: float = 1.0
    """Weight of what keeps motion smooth."""
    occupancy_every: int = 25
    """Steps between looks at which cells are empty in all frames; 0 asks the field everywhere."""

    def __post_init__(self) -> None:
        if self.frames < 2 or self.side < 8 or self.samples < 4 or self.cameras.views != 1:
            raise ConfigError(
                f"expected at least 2 frames of 8 pixels, 4 samples and single views, got {self.frames}, {self.side}, "
                f"{self.samples} and sets of {self.cameras.views}."
            )
        shares = (self.noise_share, self.plain, self.moving_camera)
        if not all(0 <= share <= 1 for share in shares):
            raise ConfigError(f"expected shares in [0, 1], got {shares}.")
        if (self.first is not None) != self.motion.free_start:
            raise ConfigError(
                "a first moment that is free (motion.free_start) needs what holds it (first), and only it."
            )

    def anchored(self) -> "MotionStage":
        """The same stage with the still scene as its first moment."""
        return dataclasses.replace(self, first=None, motion=dataclasses.replace(self.motion, free_start=False))

    def with_steps(self, steps: int) -> "MotionStage":
        """The same stage in other steps.

        Raises:
            ConfigError: fewer than one.
        """
        return dataclasses.replace(self, fit=dataclasses.replace(self.fit, steps=steps))


class MotionLoss:
    """The terms of one step: a `Loss` for `fit`. Its state is which cells are occupied, and the scene as it was when
    single frames began to be judged.

    Args:
        field: what trains.
        stage: how.
        clips: judges whole clips.
        pictures: judges single frames, where the stage wants it.
        held: holds the first moment, where that is free.
        tile: shows frames to a ControlNet of what judges single ones; None: there is none.
    """

    def __init__(
        self,
        field: AbstractMovingField,
        stage: MotionStage,
        clips: ClipGuidance,
        pictures: AbstractGuidance | None = None,
        held: HeldFirst | None = None,
        tile: Showing | None = None,
    ) -> None:
        assert (pictures is None) == (stage.pictures is None), "frames are judged where the stage says so"
        assert (held is None) == (stage.first is None), "the first moment is held where the stage says so"
        self.field, self.stage, self.clips, self.pictures = field, stage, clips, pictures
        self.held, self.tile = held, tile
        self.coarse: AbstractMovingField | None = None
        self.occupancy = Occupancy(EverField(field, stage.frames)) if stage.occupancy_every else None
        if self.occupancy is not None:
            self.occupancy.update()

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """Terms of one draw of a camera, timesteps and noise."""
        stage, progress = self.stage, step / self.stage.fit.steps
        if self.occupancy is not None and step and micro_step == 0 and step % stage.occupancy_every == 0:
            self.occupancy.update()
        unrest = LossTerms({"unrest": stage.unrest * self.field.unrest()})
        if stage.first is not None and self.held is not None and stage.first.known.due(step):
            return unrest + self._known(stage.first.known, self.held.photo, generator)
        cameras = clip_cameras(stage, generator)
        frames = clip_of(self.field, cameras, stage, self.occupancy, generator) * 2 - 1
        terms = self.clips.terms(frames, progress=progress, generator=generator) + unrest
        if stage.first is not None and self.held is not None and self.held.view is not None:
            terms = terms + self._first(stage.first.share, self.held.view, frames, cameras, progress, generator)
        if stage.pictures is None or progress < stage.pictures.since:
            return terms
        return terms + self._frames(stage.pictures, frames, cameras, progress, generator)

    def _known(self, known: KnownView, photo: KnownPhoto, generator: torch.Generator) -> LossTerms:
        """Terms of a step that looks at the photo: at the first moment alone."""
        start = self.field.at(0.0)
        return known_terms(
            start, photo, known, samples=self.stage.samples, occupancy=self.occupancy, generator=generator
        )[0]

    @staticmethod
    def _first(
        share: float,
        view: AbstractGuidance,
        frames: Tensor,
        cameras: Cameras,
        progress: float,
        generator: torch.Generator,
    ) -> LossTerms:
        """Terms of a clip's first frame, in a share of the steps."""
        if float(torch.rand((), generator=generator)) >= share:
            return LossTerms({})
        judged = view.terms(frames[:1], cameras[[0]], progress=progress, generator=generator)
        return LossTerms({f"first/{name}": term for name, term in judged.terms.items()})

    def _frames(
        self, score: FrameScore, frames: Tensor, cameras: Cameras, progress: float, generator: torch.Generator
    ) -> LossTerms:
        """Terms of single frames, with what a ControlNet is shown of them."""
        assert self.pictures is not None, "checked with the stage"
        chosen = torch.randperm(self.stage.frames, generator=generator)[: score.frames].tolist()
        seen = cameras[chosen] if len(cameras) > 1 else cameras[[0] * len(chosen)]
        with self._shown(score, frames, cameras, chosen):
            judged = self.pictures.terms(frames[chosen], seen, progress=progress, generator=generator)
        judged = judged.scaled(score.weight)
        return LossTerms({f"frame/{name}": term for name, term in judged.terms.items()})

    def _shown(
        self, score: FrameScore, frames: Tensor, cameras: Cameras, chosen: list[int]
    ) -> contextlib.AbstractContextManager[None]:
        if self.tile is None:
            return contextlib.nullcontext()
        if score.tile == "render":
            return self.tile(frames[chosen].detach() * 0.5 + 0.5)
        if self.coarse is None:
            self.coarse = copy.deepcopy(self.field).requires_grad_(False)
        with torch.no_grad():
            return self.tile(clip_of(self.coarse, cameras, self.stage, None, None, chosen))

    def state_dict(self) -> dict[str, Tensor]:
        """The occupied cells, so that a resumed run skips the same space, and what of the coarse scene moves."""
        cells = {} if self.occupancy is None else {"cells": self.occupancy.cells}
        coarse = {} if self.coarse is None else self.coarse.state_dict()
        return cells | {f"coarse/{name}": value for name, value in coarse.items() if not name.startswith("still.")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of `state_dict`."""
        if self.occupancy is not None:
            self.occupancy.cells = state["cells"].bool()
        kept = {name.removeprefix("coarse/"): value for name, value in state.items() if name.startswith("coarse/")}
        if kept:
            self.coarse = copy.deepcopy(self.field).requires_grad_(False)
            self.coarse.load_state_dict({**self.field.state_dict(), **kept})


def clip_cameras(stage: MotionStage, generator: torch.Generator) -> Cameras:
    """Where a clip is seen from: one camera for all frames, or one for each on an even way between two places."""
    if not stage.moving_camera or float(torch.rand((), generator=generator)) >= stage.moving_camera:
        return draw_cameras(stage.cameras, 1, generator)
    ends = Cameras.joined([draw_cameras(stage.cameras, 1, generator) for _ in range(2)])
    target = stage.cameras.target
    share = torch.linspace(0, 1, stage.frames)
    away = (ends.positions - ends.positions.new_tensor(target)).norm(dim=1)
    azimuth, elevation, distance, fov = (
        torch.lerp(both[0], both[1], share) for both in (ends.azimuth, ends.elevation, away, ends.fov)
    )
    return orbit(azimuth, elevation, distance, fov, target)


def clip_of(
    field: AbstractMovingField,
    cameras: Cameras,
    stage: MotionStage,
    occupancy: Occupancy | None,
    generator: torch.Generator | None,
    chosen: Sequence[int] | None = None,
) -> Tensor:
    """Frames `f 3 side side` in [0, 1] of a clip; differentiable.

    Args:
        field: the scene.
        cameras: one that stands still, or one for every frame of the clip.
        stage: sizes.
        occupancy: cells that need not be asked.
        generator: places samples; None: in the middles.
        chosen: which of the clip's frames; None: all.
    """
    settings = RenderConfig(samples=stage.samples)
    wanted = range(stage.frames) if chosen is None else chosen
    frames = [
        render_rays(
            field.at(index / (stage.frames - 1)),
            rays(cameras[[index if len(cameras) > 1 else 0]], stage.side, stage.side),
            settings,
            background=stage.plain,
            occupancy=occupancy,
            generator=generator,
        ).rgb
        for index in wanted
    ]
    return torch.stack(frames).view(len(wanted), stage.side, stage.side, 3).permute(0, 3, 1, 2)


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
