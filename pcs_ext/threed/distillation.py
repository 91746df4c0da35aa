"""Score distillation: what a diffusion model's denoiser says about a rendered picture, as a gradient."""

import math
from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.guidance import combine_guidance
from pcs_ext.image.types import Conditioning


@config
class TimestepLaw:
    """From which noise levels a step learns, as shares of the schedule's timesteps."""

    kind: Literal["uniform", "sqrt"] = "uniform"
    """uniform between `low` and `high`; sqrt: one level, high - (high - low) sqrt(progress) (HiFA, 2305.18766)."""
    low: tuple[float, float] = (0.02, 0.02)
    """Lower bound at the start and from `until` on, linear between. In [0, 1]. MVDream: 0.98 to 0.02."""
    high: tuple[float, float] = (0.98, 0.98)
    """Upper bound likewise. MVDream: 0.98 to 0.50."""
    until: float = 0.8
    """Share of training over which bounds move, in (0, 1]."""

    def __post_init__(self) -> None:
        shares = (*self.low, *self.high, self.until)
        if (
            not all(0 <= s <= 1 for s in shares)
            or self.until == 0
            or any(a > b for a, b in zip(self.low, self.high, strict=True))
        ):
            raise ConfigError(
                f"timestep bounds must be shares in [0, 1] with low <= high, got {self.low}, {self.high}."
            )

    def bounds(self, progress: float) -> tuple[float, float]:
        """Lower and upper share at a training progress in [0, 1]."""
        if self.kind == "sqrt":
            level = self.high[0] - (self.high[0] - self.low[0]) * math.sqrt(progress)
            return level, level
        moved = min(progress / self.until, 1.0)
        low, high = (start + (end - start) * moved for start, end in (self.low, self.high))
        return low, high


@config
class DistillationConfig:
    """How the score is taken."""

    guidance_scale: float = 50.0
    """Standard form, 1 = off. DreamFusion's open versions write s for what is s + 1 here."""
    timesteps: TimestepLaw = TimestepLaw()
    """Which noise levels."""
    weighting: Literal["sigma", "uniform", "fantasia3d"] = "sigma"
    """w(t): 1 - abar (DreamFusion); 1; or sqrt(abar) (1 - abar)."""
    shared_timestep: bool = False
    """One level for the whole batch, as multi-view sets want."""
    max_gradient: float | None = None
    """Clamp each latent's gradient to +- this; None does not."""


def draw_timesteps(
    law: TimestepLaw, progress: float, count: int, total: int, generator: torch.Generator, *, shared: bool = False
) -> Tensor:
    """`count` integer timesteps in [0, total), uniform between the law's bounds at this progress."""
    low, high = (min(round(share * total), total - 1) for share in law.bounds(progress))
    drawn = torch.randint(low, high + 1, (1 if shared else count,), generator=generator)
    return drawn.expand(count)


def distilled_score(
    backbone: AbstractBackbone,
    latents: Tensor,
    timesteps: Tensor,
    noise: Tensor,
    negative: Conditioning,
    positive: Conditioning,
    config: DistillationConfig,
) -> Tensor:
    """w(t) (eps_hat - eps), `b c h w`, without a graph (DreamFusion, arXiv 2209.14988, eq. 3).

    Args:
        backbone: with adapters already injected.
        latents: clean, `b c h w`.
        timesteps: `b`.
        noise: eps, `b c h w`.
        negative, positive: conditioning of batch `b`; negative is not read at guidance scale 1.
        config: guidance, weighting and clamping.
    """
    schedule = backbone.schedule
    with torch.no_grad():
        noisy = schedule.add_noise(latents, noise, timesteps)
        if config.guidance_scale == 1:
            prediction = backbone.predict(noisy, timesteps, positive)
        else:
            both = Conditioning.cat([negative, positive])
            parts = backbone.predict(torch.cat([noisy] * 2), torch.cat([timesteps] * 2), both)
            without, given = parts.chunk(2)
            prediction = combine_guidance(without, given, config.guidance_scale)
        difference = schedule.to_epsilon(prediction, noisy, timesteps) - noise
        signal, sigma = schedule.coefficients(timesteps, latents)
        weight = {"sigma": sigma**2, "uniform": 1.0, "fantasia3d": signal * sigma**2}[config.weighting]
        score = weight * difference
        return score if config.max_gradient is None else score.clamp(-config.max_gradient, config.max_gradient)


def surrogate_loss(latents: Tensor, score: Tensor) -> Tensor:
    """0-d: half the squared distance to the latents one score step away; its gradient in `latents` is score / b."""
    return 0.5 * (latents - (latents - score).detach()).square().sum() / len(latents)


def distillation_loss(
    backbone: AbstractBackbone,
    images: Tensor,
    prompts: tuple[Conditioning, Conditioning],
    config: DistillationConfig,
    *,
    progress: float,
    generator: torch.Generator,
) -> Tensor:
    """The SDS loss of rendered pictures, 0-d; its value means nothing, its gradient is the pulled-back score.

    Nothing is decoded: only the encoder's graph is kept.

    Args:
        backbone: frozen, an artifact applied or not.
        images: `b 3 h w` in [-1, 1]; resized to the backbone's resolution.
        prompts: negative and positive, from `ViewPrompts`.
        config: how.
        progress: share of training done, in [0, 1].
        generator: on the CPU; draws timesteps, then noise.

    Raises:
        UsageError: pictures and prompts of unequal number.
    """
    negative, positive = prompts
    if positive.batch_size != len(images):
        raise UsageError(f"expected one prompt per picture, got {positive.batch_size} for {len(images)}.")
    size = (backbone.resolution, backbone.resolution)
    if images.shape[2:] != size:
        images = torch.nn.functional.interpolate(images, size, mode="bilinear", antialias=True)
    latents = backbone.encode_images(images)
    timesteps = draw_timesteps(
        config.timesteps,
        progress,
        len(latents),
        backbone.schedule.num_train_timesteps,
        generator,
        shared=config.shared_timestep,
    ).to(latents.device)
    noise = torch.randn(latents.shape, generator=generator, dtype=torch.float64).to(latents)
    score = distilled_score(backbone, latents.detach(), timesteps, noise, negative, positive, config)
    return surrogate_loss(latents, score)
