"""From a motion recipe's phase to the loss that `fit` minimises: passes, clips, activation sets."""

import contextlib
import dataclasses
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from pcs_ext.image.adapters import SideNetworkAdapter
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.tokens import TokenAdapter
from pcs_ext.image.attention import attention_program
from pcs_ext.image.flow import FlowSchedule
from pcs_ext.image.levels import in_unit_range
from pcs_ext.image.types import Conditioning, LossTerms, ParameterGroup
from pcs_ext.runtime import generator_for
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.frame_words import WordMaps, clip_conditioning
from pcs_ext.video.named_losses import Pass, named_loss
from pcs_ext.video.noise import with_common
from pcs_ext.video.objectives import random_anchors
from pcs_ext.video.recipes.base import MotionPass, MotionPhase
from pcs_ext.video.recipes.layers import MOTION, PROTAGONIST


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
        """Encode clips `3 f h w`, in [-1, 1] or uint8, once, and their prompts too unless `words` among them train."""
        with torch.no_grad():
            # One at a time is on the device, and gone before the next one comes.
            latents = [_encoded(backbone, clip) for clip in clips]
            return cls(latents, list(prompts), None if words else backbone.encode_prompt(prompts))


def _encoded(backbone: AbstractVideoBackbone, clip: Tensor) -> Tensor:
    return backbone.encode_clips(in_unit_range(clip)[None].to(backbone.device, backbone.dtype))[0].float()


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
        words: learned words by what prompts write for them.
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
        words: Mapping[str, str] | None = None,
    ) -> None:
        self.words = dict(words or {})
        self.phase, self.backbone, self.adapters = phase, backbone, adapters
        self.clips, self.prior = clips, prior
        self.frames, self.stride, self.seed = frames, stride, seed
        self._mode = contextlib.ExitStack()
        self._present: set[str] = set()
        self._parameters = {
            name: [parameter for group in adapter.parameters().values() for parameter in group]
            for name, adapter in adapters.items()
        }

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
        present = self._present = {*now.trains, *now.beside} - absent
        for name, adapter in self.adapters.items():
            adapter.set_scale(1.0 if name in present else 0.0)
            for parameter in self._parameters[name]:
                parameter.requires_grad_(name in now.trains)
        self._mode.close()
        if now.frames == "one":
            self._mode.enter_context(self.backbone.frame_by_frame())

    def _skip(self, now: MotionPass) -> dict[str, Tensor]:
        parameters = [parameter for name in now.trains for parameter in self._parameters[name]]
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
        prompt = self._prompt(clips, which, now, generator)
        conditioning = self._conditioning(clips, which, prompt, clean.shape[2])
        self._tell(clips, which, now, generator)
        anchors = random_anchors(clean, generator)
        frozen = self._frozen(noisy, timesteps, conditioning) if "appearance_statistics" in now.losses else None
        with contextlib.ExitStack() as stack:
            maps = WordMaps(clean) if "motion_attention" in now.losses else None
            if maps is not None:
                stack.enter_context(attention_program(self.backbone, maps))
            prediction = self.backbone.predict(noisy, timesteps, conditioning)
        seen = Pass(
            prediction=prediction,
            target=schedule.target(clean, noise, timesteps),
            anchors=anchors,
            frozen=frozen,
            looks=None if maps is None else (self._looks(maps, MOTION, prompt), self._looks(maps, PROTAGONIST, prompt)),
        )
        return {name: weight * named_loss(name, seen) for name, weight in now.losses.items()}

    @torch.no_grad()
    def _frozen(self, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """What the model predicts without any adapter."""
        present = [adapter for name, adapter in self.adapters.items() if name in self._present]
        for adapter in present:
            adapter.set_scale(0.0)
        prediction = self.backbone.predict(noisy, timesteps, conditioning)
        for adapter in present:
            adapter.set_scale(1.0)
        return prediction

    def _looks(self, maps: WordMaps, mark: str, prompt: str) -> Tensor:
        """Where a learned word looks, `1 f h w`."""
        adapter = next(a for a in self.adapters.values() if isinstance(a, TokenAdapter) and self._is(a, mark))
        return maps.of(self.backbone, adapter.tokens, prompt)

    def _is(self, adapter: TokenAdapter, mark: str) -> bool:
        return adapter.tokens[0] == self.words.get(mark)

    def _noise(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        noise = with_common(torch.randn(shape, generator=generator), self.backbone.noise_share, generator)
        if self.phase.noise_offset:
            noise = noise + self.phase.noise_offset * torch.randn(*shape[:3], 1, 1, generator=generator)
        return noise

    def _prompt(self, clips: EncodedClips, which: int, now: MotionPass, generator: torch.Generator) -> str:
        """What a clip shows; nothing in some steps, and no motion where one frame is seen."""
        if now.textless and float(torch.rand((), generator=generator)) < now.textless:
            return ""
        prompt = clips.prompts[which]
        if now.frames == "one" and MOTION in self.words:
            return " ".join(prompt.replace(self.words[MOTION], " ").split())
        return prompt

    def _conditioning(self, clips: EncodedClips, which: int, prompt: str, frames: int) -> Conditioning:
        if clips.conditioning is not None and prompt == clips.prompts[which]:
            return clips.conditioning[[which]]
        with contextlib.nullcontext() if prompt else torch.no_grad():
            return clip_conditioning(self.backbone, self.adapters.values(), prompt, frames)

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
