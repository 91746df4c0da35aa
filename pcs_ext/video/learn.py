"""From clips to a learned motion: backbone, recipe, passes, fit, artifact."""

import contextlib
import dataclasses
import hashlib
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import config_hash, to_jsonable
from pcs_ext.errors import ArtifactError, InputError, Interrupted, UsageError
from pcs_ext.image.activation_checkpointing import activation_checkpointing
from pcs_ext.image.adapters import build_adapter
from pcs_ext.image.adapters.base import AbstractAdapter, injected
from pcs_ext.image.checkpoint import CheckpointFolder
from pcs_ext.image.evaluate.encoders import load_image_encoder
from pcs_ext.image.fit import fit
from pcs_ext.image.learn import AUTOCAST
from pcs_ext.image.levels import in_unit_range
from pcs_ext.image.loss_log import LossLog, LossReport
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.influence import with_chosen_blocks
from pcs_ext.video.motion import CLIP, Motion, check_inflation
from pcs_ext.video.recipes import MOTIONS
from pcs_ext.video.recipes.base import MotionPhase, MotionRecipe
from pcs_ext.video.told_encoder import encoder_name
from pcs_ext.video.training import EncodedClips, PassesLoss, parameter_groups


def learn_motion(
    clips: Sequence[Tensor],
    prompts: Sequence[str],
    output: str | Path,
    *,
    backbone: AbstractVideoBackbone,
    recipe: str | MotionRecipe = "motion-director",
    prior: tuple[Sequence[Tensor], Sequence[str]] | None = None,
    image_encoder: Path | None = None,
    fps: float | None = None,
    steps: int | None = None,
    seed: int = 0,
    checkpoint_activations: bool = False,
    overwrite: bool = False,
    reporter: Reporter | None = None,
) -> Motion:
    """Learn the motion that clips share. Killed or interrupted, the same call goes on where it stopped.

    Args:
        clips: `3 f h w` each, in [-1, 1] or uint8; sides are multiples of the backbone's `vae_factor`.
        prompts: what each clip shows.
        output: folder to write.
        backbone: what learns; inflated as the recipe asks.
        recipe: id in `MOTIONS`, with the values of its paper, or a recipe.
        prior: clips of something else and their prompts, for recipes that keep what the model knows by them.
        image_encoder: transformers folder of a CLIP or another image encoder, for recipes that tell their networks what
            a clip looks like.
        fps: frames per second of the first clip; clips that start from it then play at its speed. None: not known.
        steps: in all; None: the recipe's.
        seed: of everything random.
        checkpoint_activations: compute the denoiser's activations again in the backward pass: less memory, more time,
            equal gradients.
        overwrite: replace an artifact that is there.
        reporter: hears the progress.

    Raises:
        UsageError: unknown recipe, counts that differ, or activations that cannot be computed again.
        InputError: a clip is too short or of a size the backbone cannot encode.
        ArtifactError: the output exists.
        Interrupted: Ctrl-C; what was done is saved.
    """
    output, reporter = Path(output), reporter or SilentReporter()
    chosen = _recipe(recipe, steps)
    if checkpoint_activations and chosen.reads_attention:
        raise UsageError(
            f"{chosen.id} looks at attention maps while it learns, which are not kept where activations are computed "
            "again; leave out --checkpoint-activations."
        )
    _check_clips(clips, prompts, chosen, backbone)
    _check_prior(prior, chosen, backbone)
    texts = [chosen.fill(prompt, learning=True) for prompt in prompts]
    check_inflation(chosen, backbone)
    if output.exists() and not overwrite:
        raise ArtifactError(f"{output} exists already; choose another --output or pass --overwrite to replace it.")
    folder = output.with_name(output.name + ".training")
    looks, seen_by = _looks(clips, chosen, image_encoder, backbone)
    chosen = _settled(chosen, looks, clips, texts, backbone)
    configs = {name: layers.adapter(backbone) for name, layers in chosen.adapters.items()}
    adapters = {name: build_adapter(name, settings) for name, settings in configs.items()}
    run = _Run(chosen, backbone, adapters, (clips, texts), prior, looks, seen_by, seed, folder, reporter)
    with activation_checkpointing(backbone.denoiser) if checkpoint_activations else contextlib.nullcontext():
        losses = run.train()
    told = {
        "prompts": list(prompts),
        "image_encoder": None if image_encoder is None else encoder_name(image_encoder),
        **({"image_encoder_id": seen_by} if seen_by else {}),
    }
    # Of the frames that are learned, so many of the clip's apart.
    pace = {} if fps is None else {"fps": fps / chosen.stride}
    training = {"losses": losses, "clips": [list(clip.shape) for clip in clips], **pace}
    _artifact(run, configs, told, training).save(output)
    shutil.rmtree(folder, ignore_errors=True)
    reporter.event("learned", f"saved {output}", output=str(output))
    return Motion(ArtifactData.load(output, kind="motion"))


def _artifact(
    run: "_Run", configs: Mapping[str, Any], told: Mapping[str, Any], training: Mapping[str, Any]
) -> ArtifactData:
    """What was learned, with all that says how."""
    backbone, (kept, latents) = run.backbone, run.kept_clip
    return ArtifactData(
        recipe=to_jsonable(run.recipe),
        concept={"backbone": type(backbone).__name__, **told, **backbone.origin},
        adapters={name: to_jsonable(settings) for name, settings in configs.items()} | kept,
        tensors={name: adapter.state_dict() for name, adapter in run.adapters.items()} | latents,
        base_name=backbone.name,
        base_fingerprint=backbone.fingerprint,
        base_family=backbone.family,
        training={"seed": run.seed, "steps": run.recipe.steps, **training},
        kind="motion",
    )


def _recipe(recipe: str | MotionRecipe, steps: int | None) -> MotionRecipe:
    if isinstance(recipe, str):
        if recipe not in MOTIONS:
            raise UsageError(f"motion recipe {recipe!r} is unknown; expected one of {', '.join(MOTIONS)}.")
        recipe = MOTIONS[recipe].build("sd")
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
    for number, clip in enumerate(clips):
        sides = clip.shape[-2:]
        if clip.dim() != 4 or clip.shape[0] != 3 or any(side % backbone.vae_factor for side in sides):
            raise InputError(
                f"clip {number} has shape {tuple(clip.shape)}, expected 3 x frames x height x width with sides that "
                f"are multiples of {backbone.vae_factor}."
            )
        if clip.shape[1] < recipe.span:
            raise InputError(
                f"clip {number} has {clip.shape[1]} frames; {recipe.id} takes {recipe.frames} frames, {recipe.stride} "
                f"apart, so at least {recipe.span}. Give a longer clip, or fewer --frames."
            )


def _settled(
    recipe: MotionRecipe,
    looks: list[Tensor] | None,
    clips: Sequence[Tensor],
    texts: Sequence[str],
    backbone: AbstractVideoBackbone,
) -> MotionRecipe:
    """The recipe with what is known once model and clips are: widths, frames, and blocks chosen by the first clip."""
    recipe = recipe.settled(width_told=0 if looks is None else looks[0].shape[1])
    if not recipe.chooses_blocks:
        return recipe
    first = clips[0][:, : backbone.whole_frames(recipe.frames)]
    with torch.no_grad():
        latents = backbone.encode_clips(in_unit_range(first)[None].to(backbone.device, backbone.dtype)).float()
    return with_chosen_blocks(recipe, backbone, latents, texts[0])


def _check_prior(
    prior: tuple[Sequence[Tensor], Sequence[str]] | None, recipe: MotionRecipe, backbone: AbstractVideoBackbone
) -> None:
    if recipe.needs_prior != (prior is not None):
        raise UsageError(
            f"{recipe.id} keeps what the model knows by real clips of the same kind of actors that do something else: "
            "give some with --prior."
            if prior is None
            else f"{recipe.id} learns from the motion's own clips alone; leave out --prior."
        )
    if prior is not None:
        _check_clips(*prior, recipe, backbone)


@torch.no_grad()
def _looks(
    clips: Sequence[Tensor], recipe: MotionRecipe, image_encoder: Path | None, backbone: AbstractVideoBackbone
) -> tuple[list[Tensor] | None, str]:
    """Embeddings of all frames by clip, `f d` each, where the recipe tells them to its networks, and whose they are."""
    if recipe.told != (image_encoder is not None):
        raise UsageError(
            f"{recipe.id} tells its networks what a clip looks like; give --image-encoder, a folder of CLIP."
            if recipe.told
            else f"{recipe.id} needs no image encoder; leave out --image-encoder."
        )
    if image_encoder is None:
        return None, ""
    encoder = load_image_encoder(image_encoder, backbone.device)
    parts = [clip.transpose(0, 1).split(16) for clip in clips]
    looks = [torch.cat([encoder.encode_images(in_unit_range(part)) for part in clip]) for clip in parts]
    return looks, encoder.id


def _digest(clip: Tensor) -> str:
    """Hex sha256 of a clip's values, shape and type."""
    found = hashlib.sha256(f"{clip.dtype} {tuple(clip.shape)}".encode())
    for frame in clip.detach().unbind(1):
        found.update(frame.cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


class _Run:
    """State of one call of `learn_motion`."""

    def __init__(
        self,
        recipe: MotionRecipe,
        backbone: AbstractVideoBackbone,
        adapters: Mapping[str, AbstractAdapter],
        clips: tuple[Sequence[Tensor], Sequence[str]],
        prior: tuple[Sequence[Tensor], Sequence[str]] | None,
        looks: list[Tensor] | None,
        seen_by: str,
        seed: int,
        folder: Path,
        reporter: Reporter,
    ) -> None:
        self.recipe, self.backbone, self.adapters = recipe, backbone, adapters
        self.seed, self.folder, self.reporter = seed, folder, reporter
        if recipe.keeps_clip:
            # One fixed window, as Tune-A-Video trains: what is learned is what is kept, and inverted later.
            clips = [clip[:, : recipe.span] for clip in clips[0]], clips[1]
        # Encoded once: no recipe changes the autoencoder, and none augments.
        own = EncodedClips.encode(backbone, self._whole(clips[0]), clips[1], words=bool(recipe.words))
        self.clips = dataclasses.replace(own, looks=looks)
        self.prior = None if prior is None else EncodedClips.encode(backbone, self._whole(prior[0]), prior[1])
        # What went in, never what was computed of it: the last bits of that depend on the number of threads.
        known = [*clips[0], *(prior[0] if prior else ())]
        said = [*clips[1], *(prior[1] if prior else ())]
        company = [backbone.fingerprint, seen_by, *(_digest(clip) for clip in known)]
        self.identity = config_hash([to_jsonable(recipe), seed, said, company])

    @property
    def kept_clip(self) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
        """The first clip's beginning, of recipes whose clips start from nothing but its inverted noise."""
        if not self.recipe.keeps_clip:
            return {}, {}
        latents, stride = self.clips.latents[0], self.recipe.stride if self.backbone.time_factor == 1 else 1
        frames = self.backbone.latent_frames(self.recipe.frames)
        kept = latents[:, : (frames - 1) * stride + 1 : stride].cpu().contiguous()
        return {CLIP: {"kind": CLIP}}, {CLIP: {"latents": kept}}

    def _whole(self, clips: Sequence[Tensor]) -> list[Tensor]:
        """Clips of frames that latents stand for exactly."""
        if self.backbone.time_factor == 1:
            return list(clips)
        # A latent holds several neighbouring frames: strides must come before it.
        strided = [clip[:, :: self.recipe.stride] for clip in clips]
        return [clip[:, : self.backbone.whole_frames(clip.shape[1])] for clip in strided]

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
            self.clips,
            self.prior,
            frames=self.backbone.latent_frames(self.recipe.frames),
            stride=self.recipe.stride if self.backbone.time_factor == 1 else 1,
            seed=self.seed,
            words={mark: word.placeholder for mark, word in self.recipe.words.items()},
        )
        groups = parameter_groups(phase, self.adapters)
        autocast = phase.fit.autocast if phase.fit.autocast != "none" else AUTOCAST[self.backbone.dtype]
        changes: dict[str, Any] = {"seed": self.seed, "autocast": autocast}
        config = dataclasses.replace(phase.fit, gradient_accumulation=len(phase.passes), **changes)
        checkpoints = CheckpointFolder(self.folder / phase.name, config_hash=self.identity)
        try:
            task, device = f"motion {phase.name}", self.backbone.device
            with LossReport(log, self.reporter, phase=phase.name, task=task, device=device) as report:
                for state in fit(loss, groups, config, checkpoints=checkpoints, reporter=self.reporter):
                    report.add(state)
        finally:
            loss.close()
            for adapter in self.adapters.values():
                for parameters in adapter.parameters().values():
                    for parameter in parameters:
                        parameter.requires_grad_(False)
                        parameter.grad = None
