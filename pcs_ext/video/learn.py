"""From clips to a learned motion: backbone, recipe, passes, fit, artifact."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import config_hash, from_jsonable, to_jsonable
from pcs_ext.errors import ArtifactError, InputError, Interrupted, UsageError
from pcs_ext.image.adapters import AdapterConfig, build_adapter
from pcs_ext.image.adapters.base import AbstractAdapter, injected
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.fit import fit
from pcs_ext.image.loss_log import LossLog
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.recipes import RECIPES
from pcs_ext.video.recipes.base import MotionPhase, MotionRecipe
from pcs_ext.video.training import PassesLoss, parameter_groups

_AUTOCAST: dict[torch.dtype, Literal["none", "bf16", "fp16"]] = {
    torch.float32: "none",
    torch.bfloat16: "bf16",
    torch.float16: "fp16",
}


class Motion:
    """A learned motion on disk or in memory."""

    def __init__(self, data: ArtifactData) -> None:
        self.data = data
        self.recipe: MotionRecipe = from_jsonable(MotionRecipe, data.recipe, where="the motion's recipe")

    @classmethod
    def load(cls, path: str | Path) -> "Motion":
        """Read a folder written by `learn_motion`.

        Raises:
            ArtifactError: missing, corrupt, something else, or of an unknown version.
        """
        return cls(ArtifactData.load(Path(path), kind="motion"))

    @contextlib.contextmanager
    def applied(self, backbone: AbstractVideoBackbone, *, scale: float = 1.0) -> Iterator[AbstractVideoBackbone]:
        """The backbone with this motion in it; on exit the backbone is as before, bit for bit.

        Subjects of the core may be applied at the same time: they go into other layers, or stack.

        Args:
            backbone: of the kind the motion was learned on.
            scale: strength, 1 as trained.

        Raises:
            ArtifactError: the motion was learned on a backbone of another kind.
        """
        if type(backbone).__name__ != self.data.concept["backbone"]:
            raise ArtifactError(
                f"this motion was learned on {self.data.concept['backbone']} ({self.data.base_name}), "
                f"{backbone.name} is {type(backbone).__name__}; learn it again there."
            )
        adapters = []
        for name in self.recipe.plays:
            adapter = build_adapter(name, from_jsonable(AdapterConfig, self.data.adapters[name], where=name))
            adapter.load_state_dict(self.data.tensors_of(name))
            adapters.append(adapter)
        with injected(backbone, *adapters):
            for adapter in adapters:
                adapter.set_scale(scale)
            yield backbone


def learn_motion(
    clips: Sequence[Tensor],
    prompts: Sequence[str],
    output: str | Path,
    *,
    backbone: AbstractVideoBackbone,
    recipe: str | MotionRecipe = "motion-director",
    steps: int | None = None,
    seed: int = 0,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Motion:
    """Learn the motion that clips share. Killed or interrupted, the same call goes on where it stopped.

    Args:
        clips: `3 f h w` each in [-1, 1]; sides are multiples of the backbone's `vae_factor`.
        prompts: what each clip shows.
        output: folder to write.
        backbone: what learns.
        recipe: id in `RECIPES`, or a recipe.
        steps: in all; None: the recipe's.
        seed: of everything random.
        overwrite: replace an artifact that is there.
        reporter: hears the progress.

    Raises:
        UsageError: unknown recipe, or counts that differ.
        InputError: a clip is too short or of a size the backbone cannot encode.
        ArtifactError: the output exists.
        Interrupted: Ctrl-C; what was done is saved.
    """
    output, reporter = Path(output), reporter or SilentReporter()
    chosen = _recipe(recipe, steps)
    _check_clips(clips, prompts, chosen, backbone)
    if output.exists() and not overwrite:
        raise ArtifactError(f"{output} exists already; choose another --output or pass --overwrite to replace it.")
    folder = output.with_name(output.name + ".training")
    configs = {name: layers.adapter(backbone) for name, layers in chosen.adapters.items()}
    adapters = {name: build_adapter(name, settings) for name, settings in configs.items()}
    run = _Run(chosen, backbone, adapters, list(clips), list(prompts), seed, folder, reporter)
    losses = run.train()
    data = ArtifactData(
        recipe=to_jsonable(chosen),
        concept={"backbone": type(backbone).__name__, "prompts": list(prompts)},
        adapters={name: to_jsonable(settings) for name, settings in configs.items()},
        tensors={name: adapter.state_dict() for name, adapter in adapters.items()},
        base_name=backbone.name,
        base_fingerprint=backbone.fingerprint,
        base_family=backbone.family,
        training={"seed": seed, "steps": len(losses), "losses": losses, "clips": [list(clip.shape) for clip in clips]},
        kind="motion",
    )
    data.save(output)
    shutil.rmtree(folder, ignore_errors=True)
    reporter.event("learned", f"saved {output}", output=str(output))
    return Motion(ArtifactData.load(output, kind="motion"))


def _recipe(recipe: str | MotionRecipe, steps: int | None) -> MotionRecipe:
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise UsageError(f"motion recipe {recipe!r} is unknown; expected one of {', '.join(RECIPES)}.")
        recipe = RECIPES[recipe].build()
    if steps is not None:
        if steps < 1:
            raise UsageError(f"--steps must be at least 1, got {steps}.")
        recipe = recipe.with_steps(steps)
    recipe.validate()
    return recipe


def _check_clips(
    clips: Sequence[Tensor], prompts: Sequence[str], recipe: MotionRecipe, backbone: AbstractVideoBackbone
) -> None:
    if not clips or len(clips) != len(prompts):
        raise UsageError(f"expected one prompt per clip and at least one, got {len(clips)} and {len(prompts)}.")
    span = (recipe.frames - 1) * recipe.stride + 1
    for number, clip in enumerate(clips):
        sides = clip.shape[-2:]
        if clip.dim() != 4 or clip.shape[0] != 3 or any(side % backbone.vae_factor for side in sides):
            raise InputError(
                f"clip {number} has shape {tuple(clip.shape)}, expected 3 x frames x height x width with sides that "
                f"are multiples of {backbone.vae_factor}."
            )
        if clip.shape[1] < span:
            raise InputError(
                f"clip {number} has {clip.shape[1]} frames; {recipe.id} takes {recipe.frames} frames, {recipe.stride} "
                f"apart, so at least {span}. Give a longer clip, or set frames in the recipe."
            )


class _Run:
    """State of one call of `learn_motion`."""

    def __init__(
        self,
        recipe: MotionRecipe,
        backbone: AbstractVideoBackbone,
        adapters: Mapping[str, AbstractAdapter],
        clips: list[Tensor],
        prompts: list[str],
        seed: int,
        folder: Path,
        reporter: Reporter,
    ) -> None:
        self.recipe, self.backbone, self.adapters = recipe, backbone, adapters
        self.seed, self.folder, self.reporter = seed, folder, reporter
        with torch.no_grad():
            # Encoded once: no recipe changes the encoder, and none augments.
            if backbone.time_factor > 1:
                # A latent holds several neighbouring frames: strides must come before it.
                clips = [clip[:, :: recipe.stride] for clip in clips]
                clips = [clip[:, : backbone.whole_frames(clip.shape[1])] for clip in clips]
            places = [clip[None].to(backbone.device, backbone.dtype) for clip in clips]
            self.latents = [backbone.encode_clips(clip)[0].float() for clip in places]
            self.conditioning = backbone.encode_prompt(prompts)
        self.identity = config_hash([to_jsonable(recipe), seed, prompts, [float(x.sum()) for x in self.latents]])

    def train(self) -> list[float]:
        """Run all phases; returns the loss of every step."""
        torch.manual_seed(self.seed)
        done: dict[str, int] = {}
        log = LossLog(self.folder / "losses.jsonl")
        try:
            with contextlib.closing(log), injected(self.backbone, *self.adapters.values()):
                for phase in self.recipe.phases:
                    done[phase.name] = phase.fit.steps
                    self._phase(phase, log)
                return log.losses(done)
        except Interrupted:
            raise Interrupted(
                f"interrupted; what was learned so far is in {self.folder}. The same command goes on from there."
            ) from None

    def _phase(self, phase: MotionPhase, log: LossLog) -> None:
        loss = PassesLoss(
            phase,
            self.backbone,
            self.adapters,
            self.latents,
            self.conditioning,
            frames=self.backbone.latent_frames(self.recipe.frames),
            stride=self.recipe.stride if self.backbone.time_factor == 1 else 1,
            seed=self.seed,
        )
        groups = parameter_groups(phase, self.adapters)
        autocast = phase.fit.autocast if phase.fit.autocast != "none" else _AUTOCAST[self.backbone.dtype]
        changes: dict[str, Any] = {"seed": self.seed, "autocast": autocast}
        config = dataclasses.replace(phase.fit, gradient_accumulation=len(phase.passes), **changes)
        checkpoints = CheckpointFolder(self.folder / phase.name, config_hash=self.identity)
        try:
            for state in fit(loss, groups, config, checkpoints=checkpoints):
                total = state.losses["total"]
                log.add(phase.name, state.step, total)
                self.reporter.progress(f"motion {phase.name}", state.step, state.total_steps, loss=total)
        finally:
            loss.close()
            for adapter in self.adapters.values():
                for parameters in adapter.parameters().values():
                    for parameter in parameters:
                        parameter.requires_grad_(False)
                        parameter.grad = None
