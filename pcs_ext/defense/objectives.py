"""What protection raises. Every objective gives one gain per photo; the engine climbs it.

An objective is a value that is called with a `Sample`. Where its gradient is not that of the number it reports (score
distillation), it says so.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Literal, TypeAlias

import torch
from pydantic import Discriminator
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.defense.targets import target_image
from pcs_ext.image.attention import attention_program
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.noise import append_dims
from pcs_ext.image.objectives import denoising_errors
from pcs_ext.image.types import Conditioning


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """What an objective looks at: some photos' views, with everything random about them already fixed."""

    backbone: AbstractBackbone
    images: Tensor
    """`b 3 h w` in [-1, 1], differentiable."""
    clean: Callable[[], Tensor]
    """Makes the same views of the originals, for objectives that compare."""
    timesteps: Tensor
    """`b k` integers: noise levels for each photo."""
    conditioning: Conditioning
    """Of the photos' prompts, batch `b`."""
    words: Tensor
    """`b` integers: tokens of each prompt between start and end mark."""
    generators: Sequence[torch.Generator]
    """One per photo, so that a photo's noise does not depend on its neighbours."""

    def normal(self, shape: Sequence[int]) -> Tensor:
        """Standard normal numbers `b *shape`, each row from its own generator."""
        rows = [torch.randn(tuple(shape), generator=generator) for generator in self.generators]
        return torch.stack(rows).to(self.images.device)

    def latents(self, posterior: Literal["draw", "mean"] = "draw") -> Tensor:
        """Latents `b c h w` of the images, drawn from the encoder's posterior or its mean; float32."""
        mean, deviation = self.backbone.encode_posterior(self.images)
        if posterior == "mean":
            return mean.float()
        return (mean + deviation * self.normal(mean.shape[1:])).float()


@dataclasses.dataclass(frozen=True, eq=False)
class Denoised:
    """One pass through the denoiser for all photos and timesteps, rows photo by photo: `b*k c h w`."""

    prediction: Tensor
    noisy: Tensor
    noise: Tensor
    clean: Tensor
    timesteps: Tensor
    """`b*k`."""
    per_photo: int
    """k."""

    def mean(self, losses: Tensor) -> Tensor:
        """Losses `b*k` averaged over each photo's timesteps, `b`."""
        return losses.reshape(-1, self.per_photo).mean(1)


def denoise(sample: Sample, latents: Tensor) -> Denoised:
    """Noise each photo's latents `b c h w` at its timesteps and let the denoiser predict."""
    count, backbone = sample.timesteps.shape[1], sample.backbone
    noise = sample.normal((count, *latents.shape[1:])).flatten(0, 1)
    rows = torch.arange(len(latents)).repeat_interleave(count)
    timesteps = sample.timesteps.flatten().to(latents.device)
    clean = latents[rows.to(latents.device)]
    noisy = backbone.schedule.add_noise(clean, noise, timesteps)
    prediction = backbone.predict(noisy, timesteps, sample.conditioning[rows])
    return Denoised(prediction.float(), noisy, noise, clean, timesteps, count)


def denoising_loss(sample: Sample, result: Denoised) -> Tensor:
    """The training loss `b`: mean squared error against the schedule's target (eps or v)."""
    target = sample.backbone.schedule.target(result.clean, result.noise, result.timesteps)
    return result.mean(denoising_errors(result.prediction, target).mean((1, 2, 3)))


@config
class DenoisingGain:
    """The diffusion training loss itself: AdvDM (arXiv 2302.04578, eq. 6), FSMG, ASPL, SimAC."""

    kind: Literal["denoising"] = "denoising"
    posterior: Literal["draw", "mean"] = "draw"
    """Latents as the released scripts draw them, or the posterior's mean."""

    def __call__(self, sample: Sample) -> Tensor:
        """Loss `b`."""
        return denoising_loss(sample, denoise(sample, sample.latents(self.posterior)))


@config
class TargetShiftGain:
    """Denoising loss minus the distance of the predicted x_{t-1} to a target's: T-FSMG, T-ASPL
    (arXiv 2303.15433, section 4.2)."""

    kind: Literal["target-shift"] = "target-shift"
    target: str = "pattern"
    """`pattern` or the path of a picture."""
    quirks: bool = False
    """As released: at t = 0 the target is noised to the last timestep (index -1 wraps), and the step to t - 1 adds
    fresh variance noise. Otherwise the target is clean there and the step is its mean."""

    def __call__(self, sample: Sample) -> Tensor:
        """Difference `b`."""
        result = denoise(sample, sample.latents())
        target = _target_latents(sample, self.target).repeat_interleave(result.per_photo, 0)
        before = previous_step(sample.backbone, result)
        abar = sample.backbone.schedule.alphas_cumprod.to(target.device)
        earlier = abar[result.timesteps - 1]  # t = 0 wraps to the last
        if self.quirks:
            spread = _step_deviation(sample.backbone, result.timesteps)
            noise = sample.normal((result.per_photo, *before.shape[1:])).flatten(0, 1)
            before = before + append_dims(spread, before) * noise
        else:
            earlier = torch.where(result.timesteps == 0, 1.0, earlier)
        earlier = append_dims(earlier, target)
        shifted = earlier.sqrt() * target + (1 - earlier).sqrt() * result.noise
        distance = denoising_errors(before, shifted).mean((1, 2, 3))
        return denoising_loss(sample, result) - result.mean(distance)


def previous_step(backbone: AbstractBackbone, result: Denoised) -> Tensor:
    """Mean of x_{t-1} given x_t and the prediction (DDPM, arXiv 2006.11239, eq. 7), `n c h w`; x_0 at t = 0."""
    abar, before = _abars(backbone, result.timesteps)
    alpha = abar / before
    x0 = backbone.schedule.to_x0(result.prediction, result.noisy, result.timesteps)
    of_x0 = before.sqrt() * (1 - alpha) / (1 - abar)
    of_noisy = alpha.sqrt() * (1 - before) / (1 - abar)
    return append_dims(of_x0, x0) * x0 + append_dims(of_noisy, x0) * result.noisy


def _step_deviation(backbone: AbstractBackbone, timesteps: Tensor) -> Tensor:
    """Standard deviation of x_{t-1} given x_t and x_0 (eq. 7), `n`; 0 at t = 0."""
    abar, before = _abars(backbone, timesteps)
    return ((1 - before) / (1 - abar) * (1 - abar / before)).sqrt()


def _abars(backbone: AbstractBackbone, timesteps: Tensor) -> tuple[Tensor, Tensor]:
    abar = backbone.schedule.alphas_cumprod.to(timesteps.device)
    return abar[timesteps], torch.where(timesteps == 0, 1.0, abar[timesteps - 1])


def _target_latents(sample: Sample, target: str) -> Tensor:
    """The target encoded once per photo, `b c h w`, without gradient."""
    image = target_image(target, sample.images.shape[-1]).to(sample.images.device)
    with torch.no_grad():
        latents = sample.backbone.encode_posterior(image[None])[0].float()
    return latents.expand(len(sample.images), -1, -1, -1)


@config
class LatentGain:
    """Minus the mean squared distance of the encoder's mean to a target: PhotoGuard (arXiv 2302.06588, eq. 3)."""

    kind: Literal["latent"] = "latent"
    target: str | None = None
    """`pattern`, the path of a picture, or None: latents of zero, PhotoGuard's smallest norm."""

    def __call__(self, sample: Sample) -> Tensor:
        """Distance `b`, negative."""
        latents = sample.latents("mean")
        target = torch.zeros_like(latents) if self.target is None else _target_latents(sample, self.target)
        return -denoising_errors(latents, target).mean((1, 2, 3))


@config
class PosteriorGain:
    """How far the encoder's mean and deviation have moved: PID (ICML 2024). No prompt."""

    kind: Literal["posterior"] = "posterior"
    statistic: Literal["mean", "deviation", "both", "both-log", "kl"] = "both-log"
    """Squared change of the mean, of the deviation, their sum, the sum of their logarithms, or the divergence of the
    two normal distributions."""

    def __call__(self, sample: Sample) -> Tensor:
        """Change `b`. Its gradient is zero at the original: start from random noise."""
        mean, deviation = (part.float() for part in sample.backbone.encode_posterior(sample.images))
        with torch.no_grad():
            mean0, deviation0 = (part.float() for part in sample.backbone.encode_posterior(sample.clean()))
        moved, widened = ((a - b).square().mean((1, 2, 3)) for a, b in ((mean, mean0), (deviation, deviation0)))
        if self.statistic == "mean":
            return moved
        if self.statistic == "deviation":
            return widened
        if self.statistic == "both":
            return moved + widened
        if self.statistic == "both-log":
            return (moved + 1e-12).log() + (widened + 1e-12).log()
        ratio = (deviation / deviation0).square()
        return ((ratio + ((mean - mean0) / deviation0).square() - 1 - ratio.log()) / 2).mean((1, 2, 3))


@config
class ScoreGain:
    """Score distillation: the denoiser's error goes straight into the encoder, no backward pass through the denoiser
    (arXiv 2311.12832, eq. 6). Reports the denoising loss; the gradient is that of <eps_pred - eps, latents>."""

    kind: Literal["score"] = "score"
    ascend: bool = False
    """False lowers the loss, which its paper reports as stronger ("SDS-"); the gain is then minus the loss."""

    def __call__(self, sample: Sample) -> Tensor:
        """Plus or minus the denoising loss, `b`."""
        latents = sample.latents()
        with torch.no_grad():
            result = denoise(sample, latents)
            loss = denoising_loss(sample, result)
            predicted = sample.backbone.schedule.to_epsilon(result.prediction, result.noisy, result.timesteps)
            cotangent = (predicted - result.noise).unflatten(0, (-1, result.per_photo)).mean(1)
        pushed = (cotangent * latents).flatten(1).sum(1)
        sign = 1.0 if self.ascend else -1.0
        return sign * (loss + pushed - pushed.detach())


@config
class FusedGain:
    """Mist (arXiv 2305.12683, eq. 7): the denoising loss, and the latents pulled to a target."""

    kind: Literal["fused"] = "fused"
    target: str = "pattern"
    """`pattern` or the path of a picture."""
    denoising_weight: float = 0.61
    """Of the denoising loss against the mean squared latent distance. The released script weighs 10^4 against the sum
    over 4 x 64 x 64 latents: 10^4 / 16384. 0 is its textural mode."""

    def __call__(self, sample: Sample) -> Tensor:
        """Weighted difference `b`."""
        latents = sample.latents()
        textural = denoising_errors(latents, _target_latents(sample, self.target)).mean((1, 2, 3))
        if self.denoising_weight == 0:
            return -textural
        return self.denoising_weight * denoising_loss(sample, denoise(sample, latents)) - textural


@config
class AttentionGain:
    """Cross-attention erasure: the photo no longer makes the denoiser look at the prompt's words, so that training
    cannot bind them to it (after DisDiff, MM 2024, whose code is not released).

    Differs from DisDiff, as far as it was described to us: the share of attention on all words of the prompt falls, and
    not that on the class word alone; the rest goes to the start mark and the padding.
    """

    kind: Literal["attention"] = "attention"
    denoising_weight: float = 0.0
    """Of the denoising loss, which is raised beside it."""

    def __call__(self, sample: Sample) -> Tensor:
        """Minus the words' mean share of attention, in [-1, 0], plus the weighted denoising loss, `b`."""
        shares: list[Tensor] = []
        per_photo = sample.timesteps.shape[1]
        last = sample.words.repeat_interleave(per_photo)[:, None]

        def watch(path: str, probabilities: Tensor) -> Tensor:
            keys = torch.arange(probabilities.shape[-1])
            on_words = ((keys >= 1) & (keys <= last)).to(probabilities)
            shares.append(torch.einsum("bhqk,bk->bhq", probabilities, on_words).mean((1, 2)))
            return probabilities

        with attention_program(sample.backbone, watch):
            result = denoise(sample, sample.latents())
        gain = -result.mean(torch.stack(shares).mean(0).float())
        return gain + self.denoising_weight * denoising_loss(sample, result) if self.denoising_weight else gain


Objective: TypeAlias = Annotated[
    DenoisingGain | TargetShiftGain | LatentGain | PosteriorGain | ScoreGain | FusedGain | AttentionGain,
    Discriminator("kind"),
]
"""Every objective; the field `kind` says which one a JSON object is."""


def needs_denoiser(objective: Objective) -> bool:
    """Whether it looks beyond the image encoder."""
    return not isinstance(objective, (LatentGain, PosteriorGain))
