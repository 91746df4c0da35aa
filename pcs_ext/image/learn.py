"""`learn`: photos in, a learned subject out. Checks everything cheap before it loads anything big."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import check_output, config_hash, file_sha256, to_jsonable
from pcs_ext.errors import Interrupted, UsageError
from pcs_ext.image.activation_checkpointing import activation_checkpointing
from pcs_ext.image.adapters import FeatureFieldAdapter, ImageWordsAdapter, ReferenceAdapter, build_adapter
from pcs_ext.image.adapters.base import AbstractAdapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.hub import is_sdxl
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.class_images import ClassImages
from pcs_ext.image.class_sets import class_images_of
from pcs_ext.image.consolidation import Consolidation
from pcs_ext.image.contrast import Contrast, PromptReader, Rivals, photo_features
from pcs_ext.image.data import Photo, SubjectDataset, concept_crops, enlarged, find_photos
from pcs_ext.image.early_stopping import DvarStop
from pcs_ext.image.fit import AbstractRun, fit
from pcs_ext.image.forgetting import Forgetting
from pcs_ext.image.learned_photos import check_captions, photos_for
from pcs_ext.image.loss_log import LossLog, LossReport
from pcs_ext.image.mask_estimate import EstimatedMasks
from pcs_ext.image.photo_contexts import is_context, with_contexts
from pcs_ext.image.photo_reader import reader_for
from pcs_ext.image.posed import show_views
from pcs_ext.image.previews import Previews
from pcs_ext.image.recipe_request import (
    RecipeLike,
    check_plan,
    check_rounds,
    resolve_recipe,
    with_request,
    with_start,
    with_token,
)
from pcs_ext.image.recipes import Phase, Preset, Recipe
from pcs_ext.image.rewards.loss import RewardLoss
from pcs_ext.image.rounds import learn_in_rounds
from pcs_ext.image.selection_rounds import learn_selected
from pcs_ext.image.subject import Artifact
from pcs_ext.image.token_norms import kept_norms
from pcs_ext.image.training import LatentCache, PhaseLoss, only_trainable, parameter_groups
from pcs_ext.image.types import ParameterGroup
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import generator_for


def preset_of(base: str | AbstractBackbone) -> Preset:
    """Which hyperparameters fit a base: measured ones for toybox, the papers' for Stable Diffusion and SDXL."""
    if isinstance(base, AbstractBackbone):
        return "toybox" if base.name == "toybox" else ("sdxl" if base.family == "sdxl" else "sd")
    if base == "toybox":
        return "toybox"
    return "sdxl" if is_sdxl(base) else "sd"


def plan(
    photos: Sequence[Path] | Path | str,
    *,
    noun: str,
    recipe: RecipeLike = "dreambooth-lora",
    base: str = "toybox",
    token: str = "",
    steps: int | None = None,
    config: Path | None = None,
) -> dict[str, Any]:
    """What `learn` would do, as plain JSON data: the photos found and the recipe with every value. Loads no model."""
    check_plan(config, noun, base)
    found = find_photos(photos)
    resolved = with_request(resolve_recipe(recipe, noun, preset_of(base), config=config), token, steps)
    return {"photos": [str(photo.path) for photo in found], "base": base, "recipe": to_jsonable(resolved)}


def learn(
    photos: Sequence[Path] | Sequence[Photo] | Path | str,
    *,
    noun: str,
    output: Path | str,
    recipe: RecipeLike = "dreambooth-lora",
    base: str | AbstractBackbone = "toybox",
    token: str = "",
    steps: int | None = None,
    seed: int = 0,
    config: Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    overwrite: bool = False,
    previews: int = 0,
    after: Sequence[Artifact] = (),
    rivals: Rivals | None = None,
    start: Artifact | None = None,
    checkpoint_activations: bool = False,
    reporter: Reporter | None = None,
) -> Artifact:
    """Teach a diffusion model a subject.

    While it runs, checkpoints live in `OUTPUT.training/`; the same call goes on from there after an interruption.

    Args:
        photos: a folder, photo files, or photos that were read already.
        noun: what the subject is: "dog".
        output: folder of the artifact.
        recipe: name in `RECIPES`, a `Recipe`, or a function `(noun, preset) -> Recipe` (docs/python.md).
        base: toybox, hub id, diffusers folder, `.safetensors` file, or a loaded backbone.
        token: the word that stands for the subject; empty picks one.
        steps: optimiser steps in all; None takes the recipe's.
        seed: of everything random: the same seed gives the same artifact, bit for bit on the CPU.
        config: recipe as a JSON file, instead of `recipe`; what `plan` gives may be in it, too.
        device: auto, cuda, mps or cpu.
        precision: of frozen weights and autocast: auto, fp32, bf16, fp16.
        overwrite: replace an existing artifact.
        previews: steps between preview sheets in `OUTPUT.previews/`; 0 writes none.
        after: subjects learned on this base before, in their order; they stay in it, frozen, while this one is learned
            (see `Ledger`).
        rivals: photos of other classes that the subject's word shall be told from; counts where the recipe weighs it.
        start: go on from this subject's weights instead of from fresh adapters; its words are kept, its adapters must
            be the recipe's.
        checkpoint_activations: compute the denoiser's again in the backward pass: less memory, equal gradients.
        reporter: hears events and progress.

    Raises:
        PhotoError, ConfigError, UsageError, ModelError, ArtifactError: before any training, with what to do.
        DivergedError: the loss stopped being finite.
        Interrupted: Ctrl-C; what was done is saved.
    """
    output, reporter = Path(output), reporter or SilentReporter()
    check_output(output, overwrite)
    check_plan(config, noun, base if isinstance(base, str) else base.name)
    asked = with_request(resolve_recipe(recipe, noun, preset_of(base), config=config), token, steps)
    _check(asked, previews, checkpoint_activations)
    found = photos_for(asked, photos, reporter)
    loaded = isinstance(base, AbstractBackbone)
    backbone = base if loaded else load_backbone(base, device=device, precision=precision, reporter=reporter)
    resolved = resolve_recipe(recipe, noun, preset_of(backbone), config=config)
    resolved = with_token(with_start(with_request(resolved, token, steps), start, backbone), backbone)
    resolved, found = as_learned(resolved, found)
    if resolved.active is not None or resolved.select is not None:
        check_rounds(resolved, previews, start)
        once = {"base": backbone, "seed": seed, "after": after, "rivals": rivals, "reporter": reporter,
                "checkpoint_activations": checkpoint_activations}  # fmt: skip
        rounds = learn_in_rounds if resolved.active is not None else learn_selected
        return rounds(resolved, found, output, learn, once)
    _tell(resolved, found, backbone, reporter)
    sheets = Previews(Path(f"{output}.previews"), previews, backbone, resolved.concept, resolved.sampling)
    data, class_images = _dataset(resolved, found, backbone), class_images_of(resolved, backbone, seed, reporter)
    run = _Run(resolved, backbone, data, class_images, sheets, seed, Path(f"{output}.training"), reporter, after,
               rivals, start)  # fmt: skip
    with activation_checkpointing(backbone.denoiser) if checkpoint_activations else contextlib.nullcontext():
        losses = _trained(run)
    _artifact(run, found, losses).save(output)
    shutil.rmtree(run.folder, ignore_errors=True)
    reporter.event("learned", f"saved {output}", output=str(output))
    return Artifact(ArtifactData.load(output))


def _check(asked: Recipe, previews: int, checkpoint_activations: bool) -> None:
    if previews < 0:
        raise UsageError(f"--previews must be 0 or a number of steps, got {previews}.")
    if checkpoint_activations:
        asked.check_recomputable()


def _tell(recipe: Recipe, photos: Sequence[Photo], backbone: AbstractBackbone, reporter: Reporter) -> None:
    """What is learned from what, and which photos are smaller than the base."""
    for remark in enlarged(photos, backbone.resolution):
        reporter.event("photos", remark)
    steps = f"{recipe.id}: {len(photos)} photos, {recipe.steps} steps, on {backbone.device}"
    reporter.event("learn", steps, photos=len(photos))


def _dataset(recipe: Recipe, photos: Sequence[Photo], backbone: AbstractBackbone) -> SubjectDataset:
    return SubjectDataset(
        photos, recipe.concept, resolution=backbone.resolution, augmentation=recipe.augmentation,
        estimated=recipe.phases[0].estimate is not None,
    )  # fmt: skip


def as_learned(recipe: Recipe, photos: Sequence[Photo]) -> tuple[Recipe, list[Photo]]:
    """The recipe and the photos as the training takes them: cut to the concept, told apart by context words."""
    return with_contexts(recipe, concept_crops(photos) if recipe.concept_crops else photos)


def _trained(run: "_Run") -> list[float]:
    """Losses of the whole training."""
    try:
        return run.train()
    except KeyboardInterrupt:
        raise Interrupted(
            f"interrupted; what was learned so far is in {run.folder}. The same command goes on from there."
        ) from None


def _artifact(run: "_Run", found: Sequence[Photo], losses: list[float]) -> ArtifactData:
    """What was learned, with all that says how."""
    return ArtifactData(
        recipe=to_jsonable(run.recipe),
        concept=to_jsonable(run.recipe.concept),
        adapters={name: to_jsonable(value) for name, value in run.recipe.adapters.items() if not is_context(name)},
        tensors={name: adapter.state_dict() for name, adapter in run.adapters.items() if not is_context(name)},
        base_name=run.backbone.name,
        base_fingerprint=run.backbone.fingerprint,
        base_family=run.backbone.family,
        training={
            "seed": run.seed,
            "steps": run.steps,
            "resolution": run.backbone.resolution,
            "prediction_type": run.backbone.schedule.prediction_type,
            "photos": {photo.path.name: file_sha256(photo.path) for photo in found},
            "photo_digests": run.photo_digests,
            "after": run.after_hashes(),
            "rivals": None if run.rivals is None else run.rivals.digest,
            "start": run.start_hashes(),
            "final_loss": sum(losses[-50:]) / max(len(losses[-50:]), 1),
            "losses": losses,
        },
    )


AUTOCAST: dict[torch.dtype, Literal["none", "bf16", "fp16"]] = {
    torch.float32: "none",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
}
"""Precision of frozen weights -> autocast in which trained float32 ones meet them."""


class _Run:
    """State of one call of `learn`: the adapters and the phases still to do."""

    def __init__(
        self,
        recipe: Recipe,
        backbone: AbstractBackbone,
        data: SubjectDataset,
        class_images: ClassImages | None,
        previews: Previews,
        seed: int,
        folder: Path,
        reporter: Reporter,
        after: Sequence[Artifact] = (),
        rivals: Rivals | None = None,
        start: Artifact | None = None,
    ) -> None:
        self.after, self.rivals, self.start = tuple(after), rivals, start
        self.recipe, self.backbone, self.data, self.class_images = recipe, backbone, data, class_images
        self.previews = previews
        self.seed, self.folder, self.reporter = seed, folder, reporter
        # Before any phase: estimated masks take the place of the photos' own.
        self.photo_digests = [photo.digest for photo in data.photos]
        self.steps = 0
        self.adapters: Mapping[str, AbstractAdapter] = {
            name: build_adapter(name, config) for name, config in recipe.adapters.items()
        }
        if start is not None:
            for name, adapter in self.adapters.items():
                adapter.load_state_dict(start.data.tensors_of(name))

    def train(self) -> list[float]:
        """Run all phases; returns the total loss of every step, those before an interruption included."""
        latents = LatentCache(self.backbone)
        torch.manual_seed(self.seed)
        done: dict[str, int] = {}
        log = LossLog(self.folder / "losses.jsonl")
        with contextlib.ExitStack() as stack:
            stack.enter_context(contextlib.closing(log))
            for artifact in self.after:
                stack.enter_context(artifact.applied(self.backbone))
            stack.enter_context(injected(self.backbone, *self.adapters.values()))
            check_captions(self.data, self.backbone, self.reporter)
            self._show(latents)
            for phase in self.recipe.phases:
                for state in self._phase(phase, latents, log):
                    done[phase.name] = state.step
                done.setdefault(phase.name, phase.fit.steps)  # a phase that was finished before yields nothing
            self.steps = sum(done.values())
            return log.losses(done)

    def _show(self, latents: LatentCache) -> None:
        """Give one photo to adapters that look at a picture of the subject later on."""
        words = [adapter for adapter in self.adapters.values() if isinstance(adapter, ImageWordsAdapter)]
        reader = reader_for(words, self.backbone.device)
        for adapter in words if self.start is None else ():
            assert reader is not None
            adapter.keep(reader.read(self.data.squares()[0][None])[0])
        for adapter in self.adapters.values():
            if isinstance(adapter, FeatureFieldAdapter) and not adapter.views:
                show_views(adapter, self.data, latents)
            if isinstance(adapter, ReferenceAdapter) and adapter.reference is None:
                adapter.reference = latents(self.data.batch(1, generator_for(self.seed, "reference")))[0].cpu()

    def after_hashes(self) -> list[str]:
        """Content hashes of the earlier subjects, in their order."""
        return [artifact.data.content_hash for artifact in self.after]

    def _company(self) -> list[str]:
        """Digests of what a run that goes on must meet again beside its own settings."""
        rivals = [] if self.rivals is None else [self.rivals.digest]
        own = [self.backbone.fingerprint, *self.photo_digests]
        return [*own, *self.after_hashes(), *rivals, *self.start_hashes()]

    def _contrast(self, phase: Phase) -> Contrast | None:
        if self.rivals is None or phase.objective.classification_weight <= 0:
            return None
        reader, clip = PromptReader(self.backbone, self.rivals.clip), self.rivals.clip
        own = photo_features(clip, self.data.photos)
        return Contrast(reader, own, self.rivals.features, phase.objective.classification_scale)

    def _estimates(self, phase: Phase) -> dict[str, EstimatedMasks]:
        if phase.estimate is None:
            return {}
        return {"masks": EstimatedMasks(phase.estimate, self.backbone, self.data, phase.fit.steps)}

    def _loss(self, phase: Phase, groups: Sequence[ParameterGroup], latents: LatentCache, *beside: Any) -> PhaseLoss:
        """Of a phase's own photos; `beside`: forgetting, contrast, averages and consolidation, or none of them."""
        own = self.data if phase.part is None else self.data.of_part(phase.part)
        known = latents if phase.part is None else LatentCache(self.backbone)  # keys count the phase's own photos
        forgetting, contrast, averaged, kept = beside or (None, None, None, None)
        return PhaseLoss(phase, self.backbone, own, self.class_images, groups, known, forgetting, contrast,
                         self.adapters, averaged, kept)  # fmt: skip

    def _consolidation(
        self, phase: Phase, groups: Sequence[ParameterGroup], latents: LatentCache
    ) -> Consolidation | None:
        """What mattered in the phases before; their last weights are in place now, also in a run that goes on."""
        earlier = self.recipe.phases[: self.recipe.phases.index(phase)]
        if phase.objective.consolidation_weight <= 0 or not earlier:
            return None
        device, half = self.backbone.device.type, AUTOCAST[self.backbone.dtype]
        dtype = torch.bfloat16 if half == "none" else self.backbone.dtype
        autocast = torch.autocast(device, dtype, enabled=half != "none", cache_enabled=False)
        losses = [(self._loss(before, groups, latents), before.fit.steps) for before in earlier]
        return Consolidation(losses, groups, phase.objective.consolidation_samples, self.seed, autocast)

    def start_hashes(self) -> list[str]:
        """Content hash of the subject this run goes on from; empty when it starts anew."""
        return [] if self.start is None else [f"start {self.start.data.content_hash}"]

    def _phase(self, phase: Phase, latents: LatentCache, log: LossLog) -> Iterator[Any]:
        groups = parameter_groups(phase, self.adapters)
        with only_trainable(groups, self.adapters.values()):
            forgetting = Forgetting(self.adapters.values()) if phase.objective.forgetting_weight > 0 else None
            if forgetting is not None and forgetting.is_first:
                forgetting = None
            running: list[AbstractRun] = []
            contrast, kept = self._contrast(phase), self._consolidation(phase, groups, latents)
            loss = self._loss(phase, groups, latents, forgetting, contrast, lambda: running[0].averaged(), kept)
            if phase.reward is not None:
                loss = RewardLoss(phase.reward, self.backbone, self.recipe.concept, self.data.squares(), loss)
            stop = None
            if phase.dvar is not None:
                stop = DvarStop(phase.dvar, loss, seed=self.seed, micro_steps=phase.fit.gradient_accumulation)
            # Frozen weights in half precision need trained float32 ones cast to meet them.
            autocast = phase.fit.autocast if phase.fit.autocast != "none" else AUTOCAST[self.backbone.dtype]
            config = dataclasses.replace(phase.fit, seed=self.seed, autocast=autocast)
            checkpoints = CheckpointFolder(
                self.folder / phase.name,
                config_hash=config_hash([to_jsonable(self.recipe), self.seed, phase.name, *self._company()]),
            )
            hooks = {**kept_norms(phase, groups), **self._estimates(phase)}
            task, device = f"learn {phase.name}", self.backbone.device
            with LossReport(log, self.reporter, phase=phase.name, task=task, device=device) as report:
                for state in fit(loss, groups, config, checkpoints=checkpoints, extra_state=hooks, stop=stop,
                                 after_step=tuple(hooks.values()), on_start=running.append):  # fmt: skip
                    report.add(state)
                    if self.previews.is_due(state.step):
                        path = self.previews.write(running[0], phase, state.step)
                        self.reporter.event("preview", f"preview {path}", path=str(path))
                    yield state
            if phase.keeps_averages:
                running[0].keep_averages()
