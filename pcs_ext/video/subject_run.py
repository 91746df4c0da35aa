"""Subjects that are learned on a loss of their own: phases, checkpoints, artifact; as `image.learn` otherwise."""

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import check_place, config_hash, file_sha256, to_jsonable
from pcs_ext.errors import ArtifactError, Interrupted
from pcs_ext.image.activation_checkpointing import activation_checkpointing
from pcs_ext.image.adapters import AbstractAdapter, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.data import Photo
from pcs_ext.image.fit import Loss, fit
from pcs_ext.image.learn import AUTOCAST
from pcs_ext.image.loss_log import LossLog, LossReport
from pcs_ext.image.recipes import Phase, Recipe
from pcs_ext.image.subject import Artifact
from pcs_ext.image.training import only_trainable, parameter_groups
from pcs_ext.image.types import ParameterGroup
from pcs_ext.reporter import Reporter

MakeLoss = Callable[[Phase, Mapping[str, AbstractAdapter]], tuple[Loss, Sequence[ParameterGroup]]]
"""`(phase, adapters) -> (loss, what trains beside the adapters)`; the adapters are in the backbone already."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SubjectRun:
    """One learning of a subject."""

    recipe: Recipe
    backbone: AbstractBackbone
    photos: Sequence[Photo]
    make_loss: MakeLoss
    settings: Any
    """What else decides the result; a run that goes on must meet the same."""
    output: Path
    frames: int | None = None
    """Of the clips that it is learned in; None: as the model makes them, or there are none."""
    seed: int = 0
    checkpoint_activations: bool = False
    """See `image.learn`."""
    overwrite: bool = False
    reporter: Reporter

    @property
    def folder(self) -> Path:
        """Where checkpoints live while it runs."""
        return Path(f"{self.output}.training")

    def learn(self) -> Artifact:
        """Run all phases and write the subject; killed or interrupted, the same run goes on where it stopped.

        Raises:
            ArtifactError: the output exists.
            Interrupted: Ctrl-C; what was done is saved.
        """
        if self.output.exists() and not self.overwrite:
            raise ArtifactError(f"{self.output} exists already; choose another --output or pass --overwrite.")
        check_place(self.output)
        torch.manual_seed(self.seed)
        adapters = {name: build_adapter(name, config) for name, config in self.recipe.adapters.items()}
        try:
            losses = self._train(adapters)
        except Interrupted:
            raise Interrupted(
                f"interrupted; what was learned so far is in {self.folder}. The same command goes on from there."
            ) from None
        self._data(adapters, losses).save(self.output)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.reporter.event("learned", f"saved {self.output}", output=str(self.output))
        return Artifact(ArtifactData.load(self.output))

    def _train(self, adapters: Mapping[str, AbstractAdapter]) -> list[float]:
        done: dict[str, int] = {}
        log = LossLog(self.folder / "losses.jsonl")
        again = (
            activation_checkpointing(self.backbone.denoiser)
            if self.checkpoint_activations
            else contextlib.nullcontext()
        )
        with contextlib.closing(log), injected(self.backbone, *adapters.values()), again:
            for phase in self.recipe.phases:
                done[phase.name] = phase.fit.steps
                self._phase(phase, adapters, log)
            return log.losses(done)

    def _phase(self, phase: Phase, adapters: Mapping[str, AbstractAdapter], log: LossLog) -> None:
        loss, beside = self.make_loss(phase, adapters)
        groups = [*parameter_groups(phase, adapters), *beside]
        config = dataclasses.replace(
            phase.fit,
            seed=self.seed,
            autocast=phase.fit.autocast if phase.fit.autocast != "none" else AUTOCAST[self.backbone.dtype],
        )
        known = [to_jsonable(self.recipe), to_jsonable(self.settings), self.seed, phase.name, self._hashes()]
        checkpoints = CheckpointFolder(self.folder / phase.name, config_hash=config_hash(known))
        task, device = f"learn {phase.name}", self.backbone.device
        report = LossReport(log, self.reporter, phase=phase.name, task=task, device=device)
        with only_trainable(groups, adapters.values()), report:
            for state in fit(loss, groups, config, checkpoints=checkpoints, reporter=self.reporter):
                report.add(state)

    def _hashes(self) -> dict[str, str]:
        """Of the photos, by path as it was given: two subjects may have photos of one name."""
        return {str(photo.path): file_sha256(photo.path) for photo in self.photos}

    def _data(self, adapters: Mapping[str, AbstractAdapter], losses: list[float]) -> ArtifactData:
        recipe, backbone = self.recipe, self.backbone
        return ArtifactData(
            recipe=to_jsonable(recipe),
            concept=to_jsonable(recipe.concept),
            adapters={name: to_jsonable(config) for name, config in recipe.adapters.items()},
            tensors={name: adapter.state_dict() for name, adapter in adapters.items()},
            base_name=str(getattr(backbone, "origin", {}).get("base") or backbone.name),
            base_fingerprint=getattr(backbone, "spatial_fingerprint", backbone.fingerprint),
            base_family=backbone.family,
            training={
                "seed": self.seed,
                "steps": recipe.steps,
                "resolution": backbone.resolution,
                **({} if self.frames is None else {"frames": self.frames}),
                "prediction_type": backbone.schedule.prediction_type,
                "photos": {Path(name).name: digest for name, digest in self._hashes().items()},
                "final_loss": sum(losses[-50:]) / max(len(losses[-50:]), 1),
                "losses": losses,
            },
        )
