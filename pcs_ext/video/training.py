"""From a motion recipe's phase to the loss that `fit` minimises: passes, clips, activation sets."""

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from pcs_ext.image.adapters import SideNetworkAdapter
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.flow import FlowSchedule
from pcs_ext.image.types import Conditioning, LossTerms, ParameterGroup
from pcs_ext.runtime import generator_for
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.objectives import (
    after_first_loss,
    appearance_debiased_loss,
    clip_loss,
    random_anchors,
    residual_cosine_loss,
    residual_l2_loss,
)
from pcs_ext.video.recipes.base import LossName, MotionPass, MotionPhase


@dataclasses.dataclass(frozen=True)
class EncodedClips:
    """Clips as a phase learns from them."""

    latents: Sequence[Tensor]
    """`c f h w` each, of at least the frames that a window spans."""
    prompts: Sequence[str]
    """What each shows."""
    conditioning: Conditioning | None
    """Of the prompts, one row each; None: a word in them trains, so they are encoded in every step."""
    looks: Sequence[Tensor] | None = None
    """Of each clip what an image encoder makes of its frames, `f d`, for networks that are told."""

    @classmethod
    def encode(
        cls, backbone: AbstractVideoBackbone, clips: Sequence[Tensor], prompts: Sequence[str], *, words: bool = False
    ) -> "EncodedClips":
        """Encode clips `3 f h w` once, and their prompts too unless `words` among them train."""
        with torch.no_grad():
            places = [clip[None].to(backbone.device, backbone.dtype) for clip in clips]
            latents = [backbone.encode_clips(clip)[0].float() for clip in places]
            return cls(latents, list(prompts), None if words else backbone.encode_prompt(prompts))

    def conditioning_of(self, backbone: AbstractVideoBackbone, which: int) -> Conditioning:
        """Of one clip's prompt."""
        if self.conditioning is None:
            return backbone.encode_prompt([self.prompts[which]])
        return self.conditioning[[which]]


class PassesLoss:
    """The loss of one phase as `fit` wants it, a pass per micro-batch.

    Each pass runs forward and backward by itself, so that its activation set holds for both, also where activations
    are computed again. The gradients of a step are the sum over its passes.

    Args:
        phase: its passes are the micro-batches of a step.
        backbone: with all adapters injected.
        adapters: all of the recipe, by name.
        clips: what is learned.
        prior: clips of something else, for the passes that ask for them.
        frames, stride: of a training clip.
        seed: of the passes that are skipped.
    """

    def __init__(
        self,
        phase: MotionPhase,
        backbone: AbstractVideoBackbone,
        adapters: Mapping[str, AbstractAdapter],
        clips: EncodedClips,
        prior: EncodedClips | None = None,
        *,
        frames: int,
        stride: int = 1,
        seed: int = 0,
    ) -> None:
        self.phase, self.backbone, self.adapters = phase, backbone, adapters
        self.clips, self.prior = clips, prior
        self.frames, self.stride, self.seed = frames, stride, seed
        self._mode = contextlib.ExitStack()

    def __call__(self, step: int, micro_step: int, generator: torch.Generator) -> LossTerms:
        """Loss terms of one pass; everything random comes from `generator`, skips from the step's number."""
        now = self.phase.passes[micro_step]
        skipped = self._skipped(step)
        self._activate(now, skipped)
        # `fit` takes the mean over micro-batches, a step is the sum over passes.
        terms = self._skip(now) if micro_step in skipped else self._terms(now, generator)
        named = {f"{'+'.join(now.trains)}/{name}": term for name, term in terms.items()}
        return LossTerms(named).scaled(len(self.phase.passes))

    def close(self) -> None:
        """Put the backbone and the adapters back as they were."""
        self._mode.close()
        tell(self.adapters.values(), None)
        for adapter in self.adapters.values():
            adapter.set_scale(1.0)

    def _skipped(self, step: int) -> set[int]:
        """Passes left out in this step, the same for all its micro-batches."""
        drawn = torch.rand(len(self.phase.passes), generator=generator_for("motion passes", self.seed, step))
        return {i for i, p in enumerate(self.phase.passes) if float(drawn[i]) < p.skipped}

    def _activate(self, now: MotionPass, skipped: set[int]) -> None:
        """Adapters and temporal layers of this pass; they stay so until the next one, after the backward pass."""
        absent = {name for index in skipped for name in self.phase.passes[index].trains} - set(now.trains)
        present = {*now.trains, *now.beside} - absent
        for name, adapter in self.adapters.items():
            adapter.set_scale(1.0 if name in present else 0.0)
            for parameters in adapter.parameters().values():
                for parameter in parameters:
                    parameter.requires_grad_(name in now.trains)
        self._mode.close()
        if now.frames == "one":
            self._mode.enter_context(self.backbone.frame_by_frame())

    def _skip(self, now: MotionPass) -> dict[str, Tensor]:
        parameters = [p for name in now.trains for group in self.adapters[name].parameters().values() for p in group]
        zero = torch.stack([0.0 * parameter.float().sum() for parameter in parameters]).sum()
        return dict.fromkeys(now.losses, zero / len(now.losses))

    def _terms(self, now: MotionPass, generator: torch.Generator) -> dict[str, Tensor]:
        clips = self.clips if now.clips == "own" else self.prior
        assert clips is not None, "a pass on prior clips needs some"
        which = int(torch.randint(len(clips.latents), (), generator=generator))
        clean = self._window(clips.latents[which], now, generator).to(self.backbone.device)
        schedule = self.backbone.schedule
        noise = self._noise(clean.shape, generator).to(clean.device)
        timesteps = self._timesteps(generator).to(clean.device)
        noisy = schedule.add_noise(clean, noise, timesteps)
        if "after_first" in now.losses:
            noisy = torch.cat([clean[:, :, :1], noisy[:, :, 1:]], 2)
        conditioning = self._conditioning(clips, which, now, generator)
        self._tell(clips, which, now, generator)
        prediction = self.backbone.predict(noisy, timesteps, conditioning)
        target = schedule.target(clean, noise, timesteps)
        anchors = random_anchors(clean, generator)
        return {name: weight * _loss(name, prediction, target, anchors) for name, weight in now.losses.items()}

    def _noise(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        noise = torch.randn(shape, generator=generator)
        if self.phase.noise_offset:
            noise = noise + self.phase.noise_offset * torch.randn(*shape[:2], 1, 1, 1, generator=generator)
        return noise

    def _conditioning(
        self, clips: EncodedClips, which: int, now: MotionPass, generator: torch.Generator
    ) -> Conditioning:
        if now.textless and float(torch.rand((), generator=generator)) < now.textless:
            with torch.no_grad():
                return self.backbone.encode_prompt([""])
        return clips.conditioning_of(self.backbone, which)

    def _tell(self, clips: EncodedClips, which: int, now: MotionPass, generator: torch.Generator) -> None:
        """Tell networks what the clip looks like, by any of its frames; it holds until the next pass."""
        look = None
        if clips.looks is not None and float(torch.rand((), generator=generator)) >= now.untold:
            frames = clips.looks[which]
            look = frames[[int(torch.randint(len(frames), (), generator=generator))]].to(self.backbone.device)
        tell(self.adapters.values(), look)

    def _timesteps(self, generator: torch.Generator) -> Tensor:
        schedule = self.backbone.schedule
        if isinstance(schedule, FlowSchedule):
            return schedule.draw_timesteps(1, generator)
        return self.phase.timesteps.draw(1, schedule.alphas_cumprod, generator)

    def _window(self, latents: Tensor, now: MotionPass, generator: torch.Generator) -> Tensor:
        """A random stretch of the clip, `1 c f h w`; of a pass on one frame, that frame."""
        span = (self.frames - 1) * self.stride + 1
        first = int(torch.randint(latents.shape[1] - span + 1, (), generator=generator))
        window = latents[None, :, first : first + span : self.stride]
        if now.frames == "one":
            index = int(torch.randint(self.frames, (), generator=generator))
            window = window[:, :, index : index + 1]
        return window


def tell(adapters: Iterable[AbstractAdapter], look: Tensor | None) -> None:
    """Tell networks beside modules what clips look like, `1 d`; None tells them nothing."""
    for adapter in adapters:
        if isinstance(adapter, SideNetworkAdapter):
            adapter.condition = look


def _loss(name: LossName, prediction: Tensor, target: Tensor, anchors: Tensor) -> Tensor:
    if name == "debiased":
        return appearance_debiased_loss(prediction, target, anchors)
    if name == "residual_l2":
        return residual_l2_loss(prediction, target)
    if name == "residual_cosine":
        return residual_cosine_loss(prediction, target)
    if name == "residual_absolute_cosine":
        return residual_cosine_loss(prediction, target, form="absolute")
    if name == "after_first":
        return after_first_loss(prediction, target)
    return clip_loss(prediction, target)


def parameter_groups(phase: MotionPhase, adapters: Mapping[str, AbstractAdapter]) -> list[ParameterGroup]:
    """One group per adapter that a phase trains, in the order of its learning rates."""
    return [
        ParameterGroup(
            name=name,
            parameters=tuple(p for group in adapters[name].parameters().values() for p in group),
            learning_rate=rate,
            weight_decay=0.0 if "embedding" in adapters[name].parameters() else phase.weight_decay,
        )
        for name, rate in phase.learning_rates.items()
    ]
