"""Symplectic adjoint guidance: pictures led to a reference by the gradient of a clean estimate of several steps.

Pan et al. 2023, arXiv 2312.12030; the numbers are the released code's for styles. One-step estimates of the clean
picture, which cheaper guidance differentiates, are wrong while there is much noise; here the estimate takes a few steps
of the same solver, and its gradient is pulled back through them one at a time, so that memory holds one denoiser pass
whatever the number of steps. Of explicit Euler steps this adjoint is exact (a test compares it with autograd).
"""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.attention_edits import progress_at
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.one_by_one import HooksOf, noised_back, visited
from pcs_ext.image.evaluate.encoders import ClipEncoder
from pcs_ext.image.guidance import combine_guidance
from pcs_ext.image.recipes import Preset
from pcs_ext.image.sample import Predict, SampleConfig, SampleHooks
from pcs_ext.image.types import Conditioning

Loss = Callable[[Tensor], Tensor]
"""`images b 3 h w in [-1, 1] -> 0-d`, differentiable."""


@config
class SagConfig:
    """How pictures are led."""

    id: str
    """Key in `EDITS`."""
    sampling: SampleConfig
    """Scheduler ddim, whose steps remember nothing; guidance other than 1, by which the lead is scaled."""
    encoder: str
    """CLIP that compares: toybox, a transformers folder or a hub id."""
    compare: Literal["style", "content"] = "style"
    """`style`: distance of the Gram matrices of patch features; `content`: 1 - cosine of the embeddings."""
    layer: int = 3
    """Blocks behind which patch features are read, at least 1."""
    estimate_steps: int = 4
    """Denoiser passes (twice as many with guidance) to the clean estimate."""
    scale: float = 0.2
    """The lead's root mean square, over that of the guidance by words."""
    first: float = 0.3
    last: float = 0.7
    """Shares of the sampling between which pictures are led, in [0, 1]."""
    repeat: bool = True
    """Take each led step twice, with fresh noise in between (time travel)."""

    def __post_init__(self) -> None:
        if self.sampling.scheduler != "ddim" or self.sampling.guidance_scale == 1.0:
            raise ConfigError(
                f"sag leads steps of scheduler 'ddim' in the measure of guidance by words; got "
                f"{self.sampling.scheduler!r} with guidance_scale {self.sampling.guidance_scale}."
            )
        if self.scale < 0 or min(self.estimate_steps, self.layer) < 1 or not 0 <= self.first <= self.last <= 1:
            raise ConfigError(
                f"scale {self.scale}, estimate_steps {self.estimate_steps}, layer {self.layer}, first {self.first} or "
                f"last {self.last} is out of range; expected 0 or more, 1 or more, 1 or more, and shares in order."
            )


def sag(preset: Preset) -> SagConfig:
    """4 steps to the estimate; the middle 40 of 100 steps, each twice; 0.2. `toybox`: its CLIP, 50 steps."""
    small = preset == "toybox"
    return SagConfig(
        id="sag",
        sampling=SampleConfig(
            scheduler="ddim", num_inference_steps=50 if small else 100, guidance_scale=5.0 if small else 7.5
        ),
        encoder="toybox" if small else "openai/clip-vit-base-patch32",
        layer=2 if small else 3,
    )


def led_hooks(backbone: AbstractBackbone, loss: Loss, config: SagConfig) -> HooksOf:
    """Of pictures led to a small loss, for `one_by_one`.

    Args:
        backbone: with adapters already injected.
        loss: of the clean estimate's image; see `likeness_to`.
        config: how; scale 0 without repetition is plain sampling.
    """

    def hooks(seed: int) -> SampleHooks:
        lead = Lead(backbone, loss, config, seed)
        return SampleHooks(
            predict=lead.watched, before_step=lead.remember, recur=lead.again if config.repeat else None,
            on_step=lead.led,
        )  # fmt: skip

    return hooks


def likeness_to(reference: Tensor, encoder: ClipEncoder, config: SagConfig) -> Loss:
    """How unlike a reference `1 3 h w` in [-1, 1] a picture is, in the encoder's eyes."""
    if config.compare == "content":
        with torch.no_grad():
            wanted = encoder.encode_images(reference)
        return lambda images: 1 - (encoder.encode_images(images) * wanted).sum(-1).mean()
    with torch.no_grad():
        wanted = gram(patch_features(encoder, reference, config.layer))
    return lambda images: torch.linalg.norm(gram(patch_features(encoder, images, config.layer)) - wanted)


def patch_features(encoder: ClipEncoder, images: Tensor, layer: int) -> Tensor:
    """Patch features `b n d` behind so many blocks of the vision tower, without the class token. Differentiable.

    Raises:
        ConfigError: the tower has fewer blocks.
    """
    pixels = encoder.preprocessing(images.to(encoder.device))
    states = encoder.model.vision_model(pixel_values=pixels, output_hidden_states=True).hidden_states
    if layer >= len(states):
        raise ConfigError(f"the encoder has {len(states) - 1} blocks; set layer, which is {layer}, to one of them.")
    return states[layer][:, 1:].float()


def gram(features: Tensor) -> Tensor:
    """Products of all pairs of channels, summed over the `n` features `b n d`: `b d d`."""
    return features.transpose(1, 2) @ features


class Lead:
    """The hooks of one picture: after each step of the middle it is moved down the gradient at where the step began.

    Args:
        backbone: with adapters injected.
        loss: of images.
        config: how.
        seed: of the picture; every repetition has its own noise.
    """

    def __init__(self, backbone: AbstractBackbone, loss: Loss, config: SagConfig, seed: int) -> None:
        self.backbone, self.loss, self.config, self.seed = backbone, loss, config, seed
        self.timesteps = visited(backbone, config.sampling)
        self._began: Tensor | None = None
        self._conditioning: Conditioning | None = None
        self._by_words = 0.0
        self.losses: list[float] = []
        """Of every estimate, the latest last."""

    def watched(self, predict: Predict) -> Predict:
        """`SampleHooks.predict`: sees how far words move the noise."""

        def watching(latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            prediction = predict(latents, timesteps, conditioning)
            noise = self.backbone.schedule.to_epsilon(prediction.float(), latents.float(), timesteps)
            negative, positive = noise.chunk(2)
            self._by_words, self._conditioning = rms(positive - negative), conditioning
            return prediction

        return watching

    def remember(self, step: int, timestep: Tensor, latents: Tensor) -> Tensor:
        """`SampleHooks.before_step`: where the step begins."""
        self._began = latents
        return latents

    def again(self, step: int, timestep: Tensor, latents: Tensor) -> Tensor | None:
        """`SampleHooks.recur`: the led latents, noised up to where the step began."""
        if not self._is_active(timestep) or step + 1 == len(self.timesteps):
            return None
        moved = self.led(step, timestep, latents)
        began, reached = self.timesteps[step], self.timesteps[step + 1]
        self._began = noised_back(self.backbone, moved, reached=reached, began=began, seed=self.seed, step=step)
        return self._began

    def led(self, step: int, timestep: Tensor, latents: Tensor) -> Tensor:
        """`SampleHooks.on_step`: latents after the step, moved against the gradient."""
        if not self._is_active(timestep) or not self.config.scale:
            return latents
        gradient = self.gradient(step)
        amount = self.config.sampling.guidance_scale * self.config.scale * self._by_words
        return latents - amount / max(rms(gradient), 1e-12) * gradient

    def gradient(self, step: int) -> Tensor:
        """Of the loss of the clean estimate, where the step began, like the latents."""
        assert self._began is not None
        assert self._conditioning is not None
        chain = EulerChain(self.backbone, self._conditioning, self.config, self.timesteps[step:])
        states = chain.forward(self._began.detach())
        with torch.enable_grad():
            clean = states[-1].requires_grad_(True)
            loss = self.loss(self.backbone.decode_latents(clean.to(self.backbone.dtype)).float())
            (gradient,) = torch.autograd.grad(loss, clean)
        self.losses.append(float(loss.detach()))
        return chain.pull_back(states[:-1], gradient)

    def _is_active(self, timestep: Tensor) -> bool:
        return self.config.first <= progress_at(self.backbone, timestep) < self.config.last


class EulerChain:
    """A few large DDIM steps (Euler steps of the flow's ODE in x / sigma) to the clean latents, and their adjoint.

    Args:
        backbone: with adapters injected.
        conditioning: `[negative, positive]` of one picture.
        config: guidance and number of steps.
        timesteps: that sampling still visits, the present one first; steps are spread over them.
    """

    def __init__(
        self, backbone: AbstractBackbone, conditioning: Conditioning, config: SagConfig, timesteps: Sequence[int]
    ) -> None:
        self.backbone, self.conditioning = backbone, conditioning
        self.guidance_scale = config.sampling.guidance_scale
        count = min(config.estimate_steps, len(timesteps))
        self.timesteps = [timesteps[round(k * len(timesteps) / count)] for k in range(count)]

    def forward(self, latents: Tensor) -> list[Tensor]:
        """Latents at every step, the clean ones last; no graph is kept."""
        states = [latents]
        with torch.no_grad():
            for index in range(len(self.timesteps)):
                states.append(self.advanced(states[-1], index))
        return states

    def advanced(self, latents: Tensor, index: int) -> Tensor:
        """One step, `b c h w`; the last one is to the clean estimate. Differentiable."""
        timesteps = torch.full((2 * len(latents),), self.timesteps[index], device=latents.device)
        doubled = torch.cat([latents, latents])
        prediction = self.backbone.predict(doubled, timesteps, self.conditioning).float()
        negative, positive = prediction.chunk(2)
        prediction = combine_guidance(negative, positive, self.guidance_scale)
        schedule, own = self.backbone.schedule, timesteps[: len(latents)]
        clean = schedule.to_x0(prediction, latents, own)
        if index + 1 == len(self.timesteps):
            return clean
        later = torch.full_like(own, self.timesteps[index + 1])
        return schedule.add_noise(clean, schedule.to_epsilon(prediction, latents, own), later)

    def pull_back(self, states: Sequence[Tensor], gradient: Tensor) -> Tensor:
        """From the gradient at the clean latents to that at the first state: a vector-Jacobian product per step."""
        for index, state in reversed(list(enumerate(states))):
            with torch.enable_grad():
                start = state.detach().requires_grad_(True)
                (gradient,) = torch.autograd.grad(self.advanced(start, index), start, gradient)
        return gradient


def rms(values: Tensor) -> float:
    """Root mean square."""
    return float(values.detach().float().square().mean().sqrt())
