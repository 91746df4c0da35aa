"""`3d learn-poses`: a pose model is trained on the synthetic set; it needs no base."""

import copy
import dataclasses
import shutil
from pathlib import Path
from typing import Any

import torch

from pcs_ext.config_io import config, to_jsonable
from pcs_ext.errors import ConfigError
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import AbstractRun, FitConfig, fit
from pcs_ext.image.types import LossTerms, ParameterGroup
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import generator_for, seed_for
from pcs_ext.threed.avatar.pose_model import (
    MODEL_FILE,
    PoseModel,
    PoseModelConfig,
    PoseModelFile,
    save_pose_model,
)
from pcs_ext.threed.avatar.pose_set import Described, PoseSetConfig, draw_poses, fulfilled, pose_captions
from pcs_ext.threed.avatar.pose_vocabulary import PoseVocabulary
from pcs_ext.threed.avatar.rotations import six_of
from pcs_ext.threed.outputs import check_folder
from pcs_ext.threed.work import WorkFolder

_LEAST_SPREAD = 0.1
"""Joints that hardly move must not be noise alone."""
_JUDGED = 64
"""Captions of each kind that a finished model is judged on."""


@config
class PoseStage:
    """How a pose model is trained."""

    model: PoseModelConfig = PoseModelConfig()
    """Sizes."""
    poses: PoseSetConfig = PoseSetConfig()
    """What it is trained on."""
    fit: FitConfig
    """Steps and optimiser."""
    learning_rate: float = 2e-3
    """Of all weights."""
    batch_size: int = 48
    """Poses per step."""
    silence: float = 0.1
    """How often the words are left out, for guidance (arXiv 2207.12598)."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or not 0 <= self.silence < 1 or self.learning_rate <= 0:
            raise ConfigError(
                f"expected poses per step, a share of silence in [0, 1) and a learning rate, got {self.batch_size}, "
                f"{self.silence}, {self.learning_rate}."
            )

    def with_steps(self, steps: int) -> "PoseStage":
        """The same with so many steps."""
        return dataclasses.replace(self, fit=dataclasses.replace(self.fit, steps=steps))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PosesLearned:
    """What a finished training left."""

    model: PoseModel
    seen: float
    """Share of poses that do what their captions say: pairs of phrases as in training, poses never seen."""
    held_out: float | None
    """The same of pairs of phrases that training never saw; None where none is held out."""


class PoseLoss:
    """Mean squared error of v; a caption's pose is drawn anew whenever it comes up."""

    def __init__(self, model: PoseModel, described: list[Described], stage: PoseStage) -> None:
        self.model, self.described, self.stage = model, described, stage
        self.words = model.vocabulary.read([one.caption for one in described])

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """See `fit`."""
        rows = torch.randint(len(self.described), (self.stage.batch_size,), generator=generator)
        turns = draw_poses([self.described[row] for row in rows.tolist()], generator)
        clean = self.model.scaled(six_of(turns))
        schedule = self.model.schedule
        timesteps = schedule.draw_timesteps(len(rows), generator)
        noise = torch.randn(clean.shape, generator=generator)
        silent = torch.rand(len(rows), generator=generator) < self.stage.silence
        found = self.model(schedule.add_noise(clean, noise, timesteps), timesteps, self.words[rows], silent)
        return LossTerms({"pose": (found - schedule.target(clean, noise, timesteps)).square().mean()})


def learn_poses(
    output: Path,
    stage: PoseStage,
    *,
    seed: int = 0,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> PosesLearned:
    """Train a pose model; the same call goes on after an interruption, to the same tensors bit for bit on the CPU.

    Args:
        output: folder of the model; appears whole. Checkpoints lie in OUTPUT.work until then.
        stage: how.
        seed: of everything random.
        overwrite: replace what is there.
        reporter: hears events and progress.

    Raises:
        UsageError: the output is there already, or is something else.
        CheckpointError: the work folder belongs to other settings.
        DivergedError, Interrupted: as `fit`.
    """
    reporter = reporter or SilentReporter()
    check_folder(output, MODEL_FILE, overwrite)
    own = seed_for(seed, "poses") % 2**31
    stage = dataclasses.replace(stage, fit=dataclasses.replace(stage.fit, seed=own))
    request: dict[str, Any] = {"stage": to_jsonable(stage)}
    work = WorkFolder(output.with_name(f"{output.name}.work"), request)
    described = pose_captions(stage.poses)
    reporter.event("stage", f"pose model: {len(described)} captions", stage="poses")
    model = _fitted(stage, described, work, reporter)
    found = _judged(model, stage)
    told = PoseModelFile(
        model=stage.model, runs=model.vocabulary.runs, steps=stage.fit.steps, seen=found.seen, held_out=found.held_out
    )
    save_pose_model(output, model, told)
    shutil.rmtree(work.path, ignore_errors=True)
    return found


def _fitted(stage: PoseStage, described: list[Described], work: WorkFolder, reporter: Reporter) -> PoseModel:
    model = PoseModel(stage.model, PoseVocabulary.of(one.caption for one in described), stage.fit.seed)
    sample = six_of(draw_poses(described[:2000], generator_for(stage.fit.seed, "spread")))
    model.middle.copy_(sample.mean(0))
    model.spread.copy_(sample.std(0, correction=0).clamp_min(_LEAST_SPREAD))
    group = ParameterGroup(name="poses", parameters=tuple(model.parameters()), learning_rate=stage.learning_rate)
    checkpoints = CheckpointFolder(work.path / "checkpoints", config_hash=work.hash, reporter=reporter)
    runs: list[AbstractRun] = []
    states = fit(
        PoseLoss(model, described, stage), [group], stage.fit,
        checkpoints=checkpoints, reporter=reporter, on_start=runs.append,
    )  # fmt: skip
    for state in states:
        reporter.progress("3d poses", state.step, state.total_steps)
    if runs[0].average is None:
        return model.eval()
    with runs[0].average.swapped():
        return copy.deepcopy(model).eval()


def _judged(model: PoseModel, stage: PoseStage) -> PosesLearned:
    def share(held_out: bool) -> float:
        settings = dataclasses.replace(stage.poses, captions=_JUDGED, seed=stage.poses.seed + 1)
        described = pose_captions(settings, held_out=held_out)
        words = model.vocabulary.read([one.caption for one in described])
        turns = model.draw(words, seeds=range(len(described)), steps=25)
        return float(fulfilled(described, turns).float().mean())

    return PosesLearned(model=model, seen=share(False), held_out=share(True) if stage.poses.held_out else None)
