"""Score distillation: what a diffusion model's denoiser says about a rendered picture, as a gradient."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.guidance import combine_guidance, rescale_guidance
from pcs_ext.image.noise import append_dims
from pcs_ext.image.types import Conditioning
from pcs_ext.threed.view_noise import turning_noise

_HALVED = 8
"""What sides of latents must be a multiple of: a Stable Diffusion UNet halves them three times."""


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
    """How the score is taken. The defaults are DreamFusion's SDS; `SJC` and `RECONSTRUCTION` are other named values."""

    kind: Literal["score"] = "score"
    """Tag of this guidance in JSON."""
    guidance_scale: float = 50.0
    """Standard form, 1 = off. DreamFusion's open versions write s for what is s + 1 here."""
    timesteps: TimestepLaw = TimestepLaw()
    """Which noise levels."""
    weighting: Literal["sigma", "uniform", "fantasia3d", "x0"] = "sigma"
    """w(t): 1 - abar (DreamFusion); 1; sqrt(abar) (1 - abar); or sqrt((1 - abar) / abar), which makes the score the
    difference to the denoised picture (MVDream's x0 reconstruction, arXiv 2308.16512)."""
    subtract_noise: bool = True
    """False keeps the noise in the score: the same mean, more variance (Score Jacobian Chaining, arXiv 2212.00774,
    without its variance reduction)."""
    rescale: float = 0.0
    """Pull the guided x0's spread back to the unguided one's, over the views of a thing together, in [0, 1]
    (arXiv 2305.08891; MVDream: 0.5)."""
    perp_neg: bool = False
    """Repel the other views' prompts across the wanted direction only (Perp-Neg, arXiv 2304.04968)."""
    shared_timestep: bool = False
    """One level for the whole batch, as multi-view sets want."""
    noise: Literal["fresh", "kept"] = "fresh"
    """fresh: drawn anew in every step. kept: the same in all steps, from the seed, as in Consistent3D (Wu et al., CVPR
    2024, recalled): with falling levels latents then go the way of a sample, not to the mean of all."""
    harmonics: int = 0
    """Of kept noise, 0 or more: how fast it turns with the camera's azimuth (`turning_noise`); 0: not at all."""
    max_gradient: float | None = None
    """Clamp each latent's gradient to +- this; None does not."""
    growth: tuple[tuple[float, float], ...] = ()
    """Shares of training, in order, and what the base's resolution is multiplied by from there on: views are judged
    larger as they become finer (AvatarBooth)."""

    def __post_init__(self) -> None:
        if not 0 <= self.rescale <= 1:
            raise ConfigError(f"rescale is a share in [0, 1], got {self.rescale}.")
        if self.harmonics < 0 or (self.harmonics and self.noise != "kept"):
            raise ConfigError(
                f"harmonics are 0 or more, and only of kept noise; got {self.harmonics} of {self.noise} noise."
            )
        since = [share for share, _ in self.growth]
        if since != sorted(since) or not all(0 < share < 1 <= factor for share, factor in self.growth):
            raise ConfigError(
                f"growth takes rising shares of training in (0, 1) with factors of at least 1, got {self.growth}."
            )

    def refuse(self, reader: str, *names: str) -> None:
        """See that settings that somebody does not read are as they are by default.

        Args:
            reader: who does not read them, for the message.
            names: of the settings.

        Raises:
            ConfigError: one of them was changed.
        """
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        changed = [name for name in names if getattr(self, name) != defaults[name]]
        if changed:
            raise ConfigError(f"{reader} does not read {' and '.join(changed)} of its score; leave them out.")

    def factor(self, progress: float) -> float:
        """What resolutions are multiplied by at a training progress in [0, 1]."""
        return next((factor for share, factor in reversed(self.growth) if progress >= share), 1.0)


SJC = DistillationConfig(weighting="uniform", subtract_noise=False, guidance_scale=101.0)
"""Score Jacobian Chaining. On a variance-preserving base its perturb-and-average score is the noise prediction
itself, times a constant (arXiv 2212.00774, with x scaled); the guidance scale is recalled, not read."""
RECONSTRUCTION = DistillationConfig(
    weighting="x0",
    rescale=0.5,
    shared_timestep=True,
    guidance_scale=50.0,
    timesteps=TimestepLaw(low=(0.98, 0.02), high=(0.98, 0.5), until=0.8),
)
"""MVDream's x0 reconstruction with its annealed, shared timestep."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Repelled:
    """Prompts to stay away from, of `b` pictures."""

    conditionings: tuple[Conditioning, ...]
    """Of `b` rows each."""
    weights: Tensor
    """`b r`, 0 or more: how strongly each is repelled."""


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
    *,
    repelled: Repelled | None = None,
    views: int = 1,
) -> Tensor:
    """w(t) (eps_hat - eps), `b c h w`, without a graph (DreamFusion, arXiv 2209.14988, eq. 3).

    Args:
        backbone: with adapters already injected.
        latents: clean, `b c h w`.
        timesteps: `b`.
        noise: eps, `b c h w`.
        negative, positive: conditioning of batch `b`; negative is not read at guidance scale 1.
        config: guidance, weighting and clamping.
        repelled: what Perp-Neg stays away from; not read at guidance scale 1.
        views: so many consecutive rows show one thing and are rescaled together.
    """
    with torch.no_grad():
        noisy = backbone.schedule.add_noise(latents, noise, timesteps)
        epsilon = guided_epsilon(backbone, noisy, timesteps, negative, positive, config, repelled, views)
        score = weight_of(backbone, timesteps, latents, config.weighting) * (
            epsilon - noise if config.subtract_noise else epsilon
        )
        return score if config.max_gradient is None else score.clamp(-config.max_gradient, config.max_gradient)


def weight_of(backbone: AbstractBackbone, timesteps: Tensor, like: Tensor, weighting: str) -> Tensor:
    """w(t) of `DistillationConfig.weighting`, shaped to multiply `like`."""
    signal, sigma = backbone.schedule.coefficients(timesteps, like)
    weights = {"sigma": sigma**2, "uniform": torch.ones_like(sigma), "fantasia3d": signal * sigma**2}
    return weights[weighting] if weighting in weights else sigma / signal


def guided_epsilon(
    backbone: AbstractBackbone,
    noisy: Tensor,
    timesteps: Tensor,
    negative: Conditioning,
    positive: Conditioning,
    config: DistillationConfig,
    repelled: Repelled | None = None,
    views: int = 1,
) -> Tensor:
    """The noise that a guided model sees in `noisy`, `b c h w`. Arguments as for `distilled_score`."""
    schedule = backbone.schedule
    if config.guidance_scale == 1:
        return schedule.to_epsilon(backbone.predict(noisy, timesteps, positive), noisy, timesteps)
    others = () if repelled is None else repelled.conditionings
    count = 2 + len(others)
    together = Conditioning.cat([negative, positive, *others])
    parts = backbone.predict(torch.cat([noisy] * count), torch.cat([timesteps] * count), together)
    without, given, *rest = (schedule.to_epsilon(part, noisy, timesteps) for part in parts.chunk(count))
    if repelled is None:
        guided = combine_guidance(without, given, config.guidance_scale)
    else:
        guided = perp_neg(without, given, rest, repelled.weights, config.guidance_scale)
    if config.rescale == 0:
        return guided
    signal, sigma = schedule.coefficients(timesteps, noisy)
    clean, plain = ((noisy - sigma * epsilon) / signal for epsilon in (guided, given))
    return (noisy - signal * rescaled(clean, plain, config.rescale, views)) / sigma


def perp_neg(without: Tensor, given: Tensor, others: Sequence[Tensor], weights: Tensor, scale: float) -> Tensor:
    """Guidance away from other prompts, only by what of them is perpendicular to the wanted direction.

    without + scale (d - sum_i w_i d_i_perp), d = given - without, d_i likewise (Perp-Neg, arXiv 2304.04968).

    Args:
        without, given: noise predictions `b c h w` without and with the wanted prompt.
        others: predictions under the repelled prompts.
        weights: `b r`, 0 or more.
        scale: guidance scale, standard form.
    """
    wanted = given - without
    direction = wanted
    axes = tuple(range(1, wanted.dim()))
    for index, other in enumerate(others):
        away = other - without
        share = (away * wanted).sum(axes, keepdim=True) / wanted.square().sum(axes, keepdim=True).clamp_min(1e-12)
        direction = direction - append_dims(weights[:, index].to(wanted), wanted) * (away - share * wanted)
    return without + scale * direction


def rescaled(guided: Tensor, plain: Tensor, amount: float, views: int) -> Tensor:
    """`guided` with its spread moved by `amount` to that of `plain`, `b c h w`, over `views` rows together."""
    shape = (len(guided) // views, views, *guided.shape[1:])
    return rescale_guidance(guided.reshape(shape), plain.reshape(shape), amount).reshape(guided.shape)


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
    repelled: Repelled | None = None,
    views: int = 1,
    azimuth: Tensor | None = None,
    seed: int = 0,
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
        repelled: see `distilled_score`.
        views: see `distilled_score`.
        azimuth, seed: see `draw_noise`.

    Raises:
        UsageError: pictures and prompts of unequal number, or noise that turns without azimuths.
    """
    negative, positive = prompts
    if positive.batch_size != len(images):
        raise UsageError(f"expected one prompt per picture, got {positive.batch_size} for {len(images)}.")
    latents = encode_views(backbone, images, config.factor(progress))
    timesteps, noise = draw_noise(backbone, latents, config, progress, generator, azimuth=azimuth, seed=seed)
    score = distilled_score(
        backbone, latents.detach(), timesteps, noise, negative, positive, config, repelled=repelled, views=views
    )
    return surrogate_loss(latents, score)


def encode_views(backbone: AbstractBackbone, images: Tensor, factor: float = 1.0) -> Tensor:
    """Latents of pictures `b 3 h w` in [-1, 1], resized to the backbone's resolution. Differentiable.

    Args:
        backbone: encodes.
        images: of any size.
        factor: makes the resolution larger, to the nearest multiple that halves three times in latents.
    """
    cell = _HALVED * backbone.vae_factor
    side = backbone.resolution if factor == 1 else max(cell, round(backbone.resolution * factor / cell) * cell)
    size = (side, side)
    if images.shape[2:] != size:
        images = torch.nn.functional.interpolate(images, size, mode="bilinear", antialias=True)
    return backbone.encode_images(images)


def draw_noise(
    backbone: AbstractBackbone,
    latents: Tensor,
    config: DistillationConfig,
    progress: float,
    generator: torch.Generator,
    *,
    azimuth: Tensor | None = None,
    seed: int = 0,
) -> tuple[Tensor, Tensor]:
    """Timesteps `b` and then noise like the latents, on their device, the same on every device.

    Args:
        backbone: its schedule is read.
        latents: `b c h w`.
        config: how.
        progress: share of training done, in [0, 1].
        generator: on the CPU; kept noise takes nothing from it.
        azimuth: `b`, degrees; read by noise that turns.
        seed: of kept noise.

    Raises:
        UsageError: noise that turns without azimuths.
    """
    total = backbone.schedule.num_train_timesteps
    timesteps = draw_timesteps(
        config.timesteps, progress, len(latents), total, generator, shared=config.shared_timestep
    )
    if config.noise == "fresh":
        noise = torch.randn(latents.shape, generator=generator, dtype=torch.float64)
    else:
        if azimuth is None and config.harmonics:
            raise UsageError("noise that turns with the view needs the cameras' azimuths, got none.")
        turn = torch.zeros(len(latents)) if azimuth is None else azimuth
        noise = turning_noise(turn, tuple(latents.shape[1:]), config.harmonics, seed)
    return timesteps.to(latents.device), noise.to(latents)
