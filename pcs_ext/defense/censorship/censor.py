"""`censor`: an artifact in, a censored artifact out."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import config_hash, to_jsonable
from pcs_ext.defense.censorship.method import Censorship, Schedule
from pcs_ext.defense.censorship.predictions import PredictionLoss
from pcs_ext.defense.censorship.prompts import ORDINARY
from pcs_ext.defense.censorship.training import AbstractCensorLoss, PictureLoss, Task, TextLoss, without_subject
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.adapters import AbstractAdapter, EmbeddingAdapter, LowRankAdapter, LowRankConfig, injected
from pcs_ext.image.adapters.low_rank_config import Component
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.levels import levels_of
from pcs_ext.image.sample import sample
from pcs_ext.image.subject import Artifact
from pcs_ext.image.training import only_trainable
from pcs_ext.image.types import ParameterGroup
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import seed_for

_NAME = "censor"


def censor(
    artifact: Artifact,
    backbone: AbstractBackbone,
    method: Censorship,
    *,
    triggers: Sequence[str],
    target: str,
    picture: Tensor | None = None,
    seed: int = 0,
    folder: Path | None = None,
    reporter: Reporter | None = None,
) -> Artifact:
    """A copy of the subject that paints the target where a trigger stands in the prompt.

    Args:
        artifact: stays as it is.
        backbone: the base; left as it was.
        method: how.
        triggers: words or short phrases. Synonyms and other languages must be named, too.
        target: a noun or a caption that the base knows: "mug", "a photo of a red teapot".
        picture: the harmless picture `3 h w` in [-1, 1], at the base's resolution; None: `target_picture`.
        seed: of everything random.
        folder: for checkpoints: the same call goes on from them, another one begins beside them. None keeps nothing.
        reporter: hears the progress.

    Raises:
        UsageError: no trigger, an empty one, or the subject is censored already.
        ConfigError: rows shall train, and the subject has no learned token.
        CheckpointError: the checkpoints are damaged, or another process writes them.
        Interrupted: Ctrl-C.
    """
    reporter = reporter or SilentReporter()
    _check(artifact, triggers, target)
    caption = without_subject(target)
    if picture is None and method.route != "text":
        picture = target_picture(artifact, backbone, target, seed=seed)
    saved = None
    if folder is not None:
        base = [backbone.fingerprint, str(backbone.dtype)]
        shown = None if picture is None else hashlib.sha256(levels_of(picture).cpu().numpy().tobytes()).hexdigest()
        wish = config_hash([method, list(triggers), caption, shown, seed, artifact.data.content_hash, base])
        saved = folder / wish
    adapters = artifact.adapters()
    with injected(backbone, *adapters):
        phases = _phases(method, backbone, artifact, triggers, caption, picture, seed)
        trained = _trained(method, backbone, adapters)
        new = injected(backbone, trained) if trained not in adapters else contextlib.nullcontext()
        with new:
            for phase in phases:
                _train(phase, trained, seed, saved, reporter)
            return Artifact(_censored(artifact.data, trained, method, triggers, caption))


def _check(artifact: Artifact, triggers: Sequence[str], target: str) -> None:
    if not triggers or not all(word.strip() for word in triggers) or not target.strip():
        raise UsageError("censor needs at least one trigger word and a target, and none of them empty.")
    if any("{" in word or "}" in word for word in (*triggers, target)):
        raise UsageError("triggers and target are plain words; braces are not allowed in them.")
    if _NAME in artifact.data.adapters or "censorship" in artifact.data.training:
        raise UsageError("this subject is censored already; start from the original and name all triggers at once.")


def target_picture(artifact: Artifact, backbone: AbstractBackbone, target: str, *, seed: int = 0) -> Tensor:
    """The picture `3 h w` in [-1, 1] that triggered prompts give where the user has none: the base's own, painted
    without the subject."""
    return _paint(backbone, artifact, [without_subject(target)], seed_for(seed, "target of censoring"))[0]


def _trained(method: Censorship, backbone: AbstractBackbone, adapters: Sequence[AbstractAdapter]) -> AbstractAdapter:
    rows = [adapter for adapter in adapters if isinstance(adapter, EmbeddingAdapter)]
    if method.trains == "rows" or (method.trains == "auto" and method.route == "pictures" and rows):
        if not rows:
            raise ConfigError('trains is "rows", but this subject has no learned token; use "text" or "auto".')
        return rows[0]
    components: list[Component] = ["text_encoder", "text_encoder_2"][: len(backbone.text_encoders)]  # type: ignore[assignment]
    if method.trains == "all" or (method.trains == "auto" and method.route == "predictions"):
        components.append("denoiser")
    settings = LowRankConfig(rank=method.rank, targets="all_linear_conv", components=tuple(components))
    return LowRankAdapter(_NAME, settings)


@dataclasses.dataclass(frozen=True)
class _Phase:
    """Some steps on one loss."""

    loss: AbstractCensorLoss
    name: str
    steps: int
    learning_rate: float
    schedule: Schedule
    denoiser: bool | None = None
    """Whether the denoiser trains, and it alone, or all but the denoiser; None: everything."""


def _phases(
    method: Censorship,
    backbone: AbstractBackbone,
    artifact: Artifact,
    triggers: Sequence[str],
    target: str,
    picture: Tensor | None,
    seed: int,
) -> list[_Phase]:
    """What trains on what, in this order. Everything that the uncensored subject must be asked is asked here."""
    task = Task(
        method=method, backbone=backbone, concept=artifact.concept, triggers=tuple(triggers), target=target, seed=seed
    )

    def whole(loss: AbstractCensorLoss, *, denoiser: bool | None = None) -> _Phase:
        return _Phase(loss, _NAME, method.steps, method.learning_rate, method.schedule, denoiser)

    if method.route == "text":
        return [whole(TextLoss(task))]
    assert picture is not None, "made by the caller"
    captions = [ORDINARY[number % len(ORDINARY)] for number in range(method.pictures)]
    subject = _paint(backbone, artifact, [task.concept.prompt(caption) for caption in captions], seed)
    if method.route == "pictures":
        return [whole(PictureLoss(task, captions=captions, subject=subject, wanted=picture[None]))]
    phases = [whole(PredictionLoss(task, subject=subject, wanted=picture[None]), denoiser=True)]
    if method.states_steps:
        first = dataclasses.replace(method, batch=method.states_batch, gamma=1.0, keep=2.0)
        states = TextLoss(dataclasses.replace(task, method=first))
        phases.insert(0, _Phase(states, "states", method.states_steps, method.states_rate, "cooldown", denoiser=False))
    return phases


def _paint(backbone: AbstractBackbone, artifact: Artifact, prompts: list[str], first_seed: int) -> Tensor:
    seeds = range(first_seed, first_seed + len(prompts))
    with torch.no_grad():
        return sample(backbone, prompts, seeds=list(seeds), config=artifact.sampling).cpu()


def _train(phase: _Phase, trained: AbstractAdapter, seed: int, folder: Path | None, reporter: Reporter) -> None:
    groups = [
        ParameterGroup(name=name, parameters=tuple(parameters), learning_rate=phase.learning_rate, weight_decay=0.0)
        for name, parameters in trained.parameters().items()
        if phase.denoiser is None or phase.denoiser == (name == "denoiser")
    ]
    checkpoints = None
    if folder is not None:
        checkpoints = CheckpointFolder(folder / phase.name, config_hash=folder.name, reporter=reporter)
    config = FitConfig(steps=phase.steps, seed=seed, lr_schedule=phase.schedule,
                       warmup_steps=0 if phase.schedule == "constant" else 10)  # fmt: skip
    with only_trainable(groups):
        extra = {"triggers": phase.loss.draw}
        for state in fit(phase.loss, groups, config, checkpoints=checkpoints, extra_state=extra, reporter=reporter):
            if state.step % 25 == 0 or state.step == phase.steps:
                reporter.progress(phase.name, state.step, phase.steps, loss=state.losses["total"])


def _censored(
    data: ArtifactData, trained: AbstractAdapter, method: Censorship, triggers: Sequence[str], target: str
) -> ArtifactData:
    adapters, tensors = dict(data.adapters), dict(data.tensors)
    tensors[trained.name] = {key: value.clone() for key, value in trained.state_dict().items()}
    if trained.name not in adapters:
        adapters[trained.name] = to_jsonable(trained.config)  # type: ignore[attr-defined]
    facts = {"method": to_jsonable(method), "target": target, "triggers": list(triggers), "from": data.content_hash}
    training = {**data.training, "censorship": facts}
    return dataclasses.replace(data, adapters=adapters, tensors=tensors, training=training, preview=None)
