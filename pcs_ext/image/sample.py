"""The sampling loop, explicit, over diffusers' schedulers."""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, Protocol

import torch
from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, EulerDiscreteScheduler
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.adapters.layers import merged
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.flow import FlowSchedule
from pcs_ext.image.guidance import combine_guidance
from pcs_ext.image.types import Conditioning
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import generator_for

Predict = Callable[[Tensor, Tensor, Conditioning], Tensor]


class Encode(Protocol):
    """How prompts of a batch become conditioning."""

    def __call__(self, prompts: Sequence[str], *, negative: bool, size: tuple[int, int]) -> Conditioning:
        """Conditioning of the prompts.

        Args:
            prompts: `b` texts.
            negative: they are what guidance goes away from.
            size: height and width in pixels.
        """
        ...


_MOST = 16
"""Images sampled together where nothing else is said."""
_CELLS = 4 * 64 * 64
"""Cells of latents sampled together: four images of 512 pixels."""
_PIXELS = 512 * 512
"""Decoded together."""
_SCHEDULERS = {"ddim": DDIMScheduler, "dpmsolver++": DPMSolverMultistepScheduler, "euler": EulerDiscreteScheduler}


@config
class SampleConfig:
    """How to sample."""

    scheduler: Literal["ddim", "dpmsolver++", "euler"] = "dpmsolver++"
    """DDIM (arXiv 2010.02502), DPM-Solver++ 2M (arXiv 2211.01095) or Euler (arXiv 2206.00364); flow-matching models
    take euler alone."""
    num_inference_steps: int = 30
    """Denoiser evaluations per image (twice as many with guidance)."""
    guidance_scale: float = 7.5
    """Classifier-free guidance, 1 = off."""
    height: int | None = None
    """Pixels; None: the base's resolution."""
    width: int | None = None
    """Pixels; None: the base's resolution."""

    def __post_init__(self) -> None:
        if not 0 <= self.guidance_scale < math.inf:
            raise ConfigError(f"guidance_scale must be 0 or more, got {self.guidance_scale}; 1 is off.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampling:
    """A batch that is about to be sampled."""

    scheduler: Any
    """Of diffusers, its timesteps set."""
    conditioning: Conditioning
    """Of the prompts; under guidance the negative ones' before it."""
    guided: bool
    guidance_scale: float
    """1 where it is not guided."""
    seeds: tuple[int, ...]
    """Of each image."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleHooks:
    """Places where plugins and training-free methods reach into the loop."""

    predict: Callable[[Predict], Predict] | None = None
    """Wraps the denoiser: receives `backbone.predict`, returns what is called instead."""
    started: Callable[["Sampling"], None] | None = None
    """Told of every batch before its first step."""
    before_step: Callable[[int, Tensor, Tensor], Tensor] | None = None
    """`(step, timestep, latents) -> latents` before the denoiser sees them: guidance by gradients works here."""
    recur: Callable[[int, Tensor, Tensor], Tensor | None] | None = None
    """`(step, timestep, latents after the step) -> latents noised up to before it`: the step is then taken once more
    from there (self-recurrence); None goes on. Only with ddim, whose steps remember nothing."""
    on_step: Callable[[int, Tensor, Tensor], Tensor] | None = None
    """`(step, timestep, latents) -> latents` after every step."""
    encode: Encode | None = None
    """Replaces `backbone.encode_prompt`: pictures beside the words come in here."""
    attention: Callable[[], contextlib.AbstractContextManager[Any]] | None = None
    """Context in which a batch is sampled: attention programs are put in and taken out here."""
    decode: Callable[[Tensor], Tensor] | None = None
    """Replaces `backbone.decode_latents`."""
    initial_latents: Tensor | None = None
    """Start here instead of at noise, `n c h w` at the noise level of step `first_step`, in the scheduler's scale."""
    first_step: int = 0
    """Leave out the steps before this one; needs `initial_latents`."""
    each_alone: bool = False
    """Whether hooks do to an image the same whatever is sampled beside it, so that few large ones may be at a time."""


def build_scheduler(backbone: AbstractBackbone, config: SampleConfig) -> Any:
    """A diffusers scheduler with the backbone's betas or flow, its timesteps set.

    Raises:
        UsageError: a backbone that follows a flow, and a scheduler other than euler.
    """
    if isinstance(backbone.schedule, FlowSchedule):
        if config.scheduler != "euler":
            raise UsageError(
                f"{backbone.name} follows a flow, which is sampled with scheduler 'euler'; got {config.scheduler!r}."
            )
        return backbone.schedule.euler(config.num_inference_steps, backbone.device)
    abar = backbone.schedule.alphas_cumprod.double()
    betas = 1 - abar / torch.cat([torch.ones(1, dtype=torch.float64), abar[:-1]])
    options: dict[str, Any] = {
        "trained_betas": betas.tolist(),
        "num_train_timesteps": len(betas),
        "prediction_type": backbone.schedule.prediction_type,
        "timestep_spacing": "trailing" if config.scheduler == "ddim" else "linspace",
    }
    if config.scheduler == "ddim":
        options |= {"clip_sample": False, "set_alpha_to_one": False}
    scheduler = _SCHEDULERS[config.scheduler](**options)
    scheduler.set_timesteps(config.num_inference_steps, device=backbone.device)
    return scheduler


def check_side(name: str, side: int, backbone: AbstractBackbone) -> None:
    """See that images of this base can have a height or width of `side` pixels.

    Raises:
        UsageError: not a multiple of the VAE's factor, or too small.
    """
    if side < 8 * backbone.vae_factor or side % backbone.vae_factor:
        raise UsageError(
            f"{name} {side} does not fit: expected a multiple of {backbone.vae_factor}, at least "
            f"{8 * backbone.vae_factor} (the base was trained at {backbone.resolution})."
        )


def sides(backbone: AbstractBackbone, config: SampleConfig) -> tuple[int, int]:
    """Height and width of what is sampled, in pixels.

    Raises:
        UsageError: sizes the base cannot make.
    """
    height, width = (side or backbone.resolution for side in (config.height, config.width))
    for name, side in (("height", height), ("width", width)):
        check_side(name, side, backbone)
    return height, width


def initial_noise(backbone: AbstractBackbone, seeds: Sequence[int], config: SampleConfig) -> Tensor:
    """Unit normal latents, one CPU generator per seed: an image depends on its own seed alone."""
    height, width = sides(backbone, config)
    shape = (backbone.latent_channels, height // backbone.vae_factor, width // backbone.vae_factor)
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def sample(
    backbone: AbstractBackbone,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    config: SampleConfig,
    negative_prompts: Sequence[str] | None = None,
    batch_size: int | None = None,
    hooks: SampleHooks | None = None,
    reporter: Reporter | None = None,
) -> Tensor:
    """Images of prompts, `n 3 h w` in [-1, 1], float32 on the CPU.

    Not decorated with `no_grad`: wrap the call when no gradient is wanted.

    Args:
        backbone: with adapters already injected.
        prompts: `n` texts.
        seeds: `n` seeds.
        config: how.
        negative_prompts: `n` texts to stay away from; None: empty ones.
        batch_size: images sampled together; does not change them beyond rounding. None: 16, or fewer large ones (four
            of 512 pixels, one of 1024) unless hooks reach into the loop, which may want to see all of them at once
            (`SampleHooks.each_alone`).
        hooks: see `SampleHooks`.
        reporter: hears the progress in denoiser steps, over all images.

    Raises:
        UsageError: unequal counts, or sizes the base cannot make.
    """
    hooks, reporter = hooks or SampleHooks(), reporter or SilentReporter()
    assert hooks.initial_latents is not None or not hooks.first_step, "noise is where the first step starts"
    assert hooks.recur is None or config.scheduler == "ddim", "only a sampler without memory can take a step again"
    if not prompts or len(prompts) != len(seeds):
        raise UsageError(
            f"sample needs as many seeds as prompts and at least one, got {len(prompts)} and {len(seeds)}."
        )
    if config.num_inference_steps < 1:
        raise UsageError(f"num_inference_steps must be at least 1, got {config.num_inference_steps}.")
    negatives = list(negative_prompts) if negative_prompts is not None else [""] * len(prompts)
    noise = initial_noise(backbone, seeds, config) if hooks.initial_latents is None else hooks.initial_latents
    size = batch_size or _together(noise, hooks)
    images, steps = [], _Steps(reporter, len(range(0, len(prompts), size)))
    with _prepared(backbone, hooks):
        for first in range(0, len(prompts), size):
            rows = slice(first, first + size)
            with hooks.attention() if hooks.attention is not None else contextlib.nullcontext():
                latents = _denoise(
                    backbone, list(prompts[rows]), negatives[rows], noise[rows], config, hooks, seeds[rows], steps
                )
                images.append(_decoded(backbone, latents, hooks))
    return torch.cat(images).clamp(-1, 1)


def _together(noise: Tensor, hooks: SampleHooks) -> int:
    """How many of these latents `n c ... h w` to sample at once: 16, or fewer large ones that nobody reaches into."""
    reaching = (hooks.predict, hooks.started, hooks.before_step, hooks.recur, hooks.on_step, hooks.attention)
    if not hooks.each_alone and (hooks.encode is not None or any(hook is not None for hook in reaching)):
        return _MOST
    return _at_once(noise[0, 0].numel())


def _at_once(cells: int) -> int:
    return max(1, min(_MOST, _CELLS // cells))


def images_at_once(backbone: AbstractBackbone, config: SampleConfig) -> int:
    """How many images of a config `sample` makes together where nothing else is said."""
    sides = (side or backbone.resolution for side in (config.height, config.width))
    return _at_once(math.prod(side // backbone.vae_factor for side in sides))


def _decoded(backbone: AbstractBackbone, latents: Tensor, hooks: SampleHooks) -> Tensor:
    """Images `b 3 h w`, float32 on the CPU, large ones one by one: the decoder needs a hundred times their memory."""
    if hooks.decode is not None:
        return hooks.decode(latents).float().cpu()
    few = max(1, _PIXELS // (latents[0, 0].numel() * backbone.vae_factor**2))
    return torch.cat([backbone.decode_latents(part).float().cpu() for part in latents.split(few)])


class _Steps:
    """Counts denoiser steps over all batches for the reporter."""

    def __init__(self, reporter: Reporter, batches: int) -> None:
        self.reporter, self.batches, self.done = reporter, batches, 0

    def __call__(self, each: int) -> None:
        """One more; `each` batch takes as many."""
        self.done += 1
        self.reporter.progress("sample", self.done, self.batches * each)


@contextlib.contextmanager
def _prepared(backbone: AbstractBackbone, hooks: SampleHooks) -> Iterator[None]:
    """Adapters merged, unless gradients are wanted or someone may change them between steps.

    In all parts that run in every step (a video model's `motion` too); text encoders run once for a batch.
    """
    reaching = (hooks.predict, hooks.before_step, hooks.recur, hooks.on_step, hooks.attention)
    reached_into = any(hook is not None for hook in reaching)
    with contextlib.ExitStack() as stack:
        if not torch.is_grad_enabled() and not reached_into:
            for name, part in backbone.components().items():
                if not name.startswith("text_encoder"):
                    # Each by itself, so that one that is too large to be merged keeps no other from it.
                    stack.enter_context(merged(part))
        yield


def _drawn(conditioning: Conditioning, seeds: Sequence[int]) -> Conditioning:
    """Where prompts are distributions, a draw for each image from its own seed."""
    if conditioning.deviation is None:
        return conditioning
    shape = conditioning.states.shape[1:]
    draws = [torch.randn(shape, generator=generator_for(seed, "prompt")) for seed in seeds]
    return conditioning.drawn(torch.stack(draws))


def _denoise(
    backbone: AbstractBackbone,
    prompts: list[str],
    negatives: list[str],
    noise: Tensor,
    config: SampleConfig,
    hooks: SampleHooks,
    seeds: Sequence[int],
    count: Callable[[int], None],
) -> Tensor:
    scheduler = build_scheduler(backbone, config)
    predict = hooks.predict(backbone.predict) if hooks.predict is not None else backbone.predict
    size = noise.shape[-2] * backbone.vae_factor, noise.shape[-1] * backbone.vae_factor
    guided = config.guidance_scale != 1.0

    def encode(texts: Sequence[str], *, negative: bool) -> Conditioning:
        if hooks.encode is None:
            return (backbone.encode_negative if negative else backbone.encode_prompt)(texts, size=size)
        return hooks.encode(texts, negative=negative, size=size)

    conditioning = _drawn(encode(prompts, negative=False), seeds)
    if guided:
        conditioning = Conditioning.cat([encode(negatives, negative=True), conditioning])
    if hooks.started is not None:
        hooks.started(
            Sampling(
                scheduler=scheduler,
                conditioning=conditioning,
                guided=guided,
                guidance_scale=config.guidance_scale,
                seeds=tuple(seeds),
            )
        )
    latents = noise.to(backbone.device, torch.float32)
    if hooks.initial_latents is None:
        latents = latents * scheduler.init_noise_sigma

    def advanced(timestep: Tensor, latents: Tensor) -> Tensor:
        scaled = scheduler.scale_model_input(latents, timestep)
        doubled = torch.cat([scaled, scaled]) if guided else scaled
        # Euler visits fractional timesteps; the denoiser's own time embedding takes them as they are.
        prediction = predict(doubled, timestep.expand(len(doubled)), conditioning).float()
        if guided:
            negative, positive = prediction.chunk(2)
            prediction = combine_guidance(negative, positive, config.guidance_scale)
        return scheduler.step(prediction, timestep, latents).prev_sample

    steps = list(enumerate(scheduler.timesteps))[hooks.first_step :]
    for step, timestep in steps:
        if hooks.before_step is not None:
            latents = hooks.before_step(step, timestep, latents)
        latents = advanced(timestep, latents)
        again = hooks.recur(step, timestep, latents) if hooks.recur is not None else None
        latents = latents if again is None else advanced(timestep, again)
        if hooks.on_step is not None:
            latents = hooks.on_step(step, timestep, latents)
        count(len(steps))
    return latents
