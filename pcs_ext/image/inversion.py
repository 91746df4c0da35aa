"""DDIM inversion: the noise from which deterministic sampling comes back to a given picture."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.flow import FlowSchedule
from pcs_ext.image.guidance import combine_guidance
from pcs_ext.image.sample import SampleConfig, build_scheduler
from pcs_ext.image.types import Conditioning
from pcs_ext.reporter import Reporter, SilentReporter


def invert(
    backbone: AbstractBackbone,
    latents: Tensor,
    prompts: Sequence[str],
    *,
    config: SampleConfig,
    fixed_point_iterations: int = 1,
    reporter: Reporter | None = None,
) -> list[Tensor]:
    """Run DDIM sampling backwards (Song et al. 2021, arXiv 2010.02502, section 4.3).

    One step of sampling maps x_t to x_s with the noise predicted at x_t. Backwards x_t is what is sought, so the
    noise is predicted at the best estimate of it: first x_s, then, with more iterations, what came out (fixed-point
    inversion, Pan et al. 2023, arXiv 2309.04907). Not decorated with `no_grad`.

    Args:
        backbone: with adapters already injected.
        latents: clean, scaled, `n c h w` (`backbone.encode_images`).
        prompts: `n` texts that describe the pictures.
        config: with scheduler "ddim"; a guidance scale above 1 makes the inversion inexact, 1 is the usual choice.
        fixed_point_iterations: predictions per step, at least 1; 3 to 5 reconstruct nearly exactly.
        reporter: hears the progress in steps.

    Returns:
        Latents at every timestep that sampling visits, cleanest first: `num_inference_steps + 1` tensors like
        `latents`; the last one is what `SampleHooks.initial_latents` takes.

    Raises:
        UsageError: a backbone that follows a flow, another scheduler, unequal counts, or no iteration.
    """
    if isinstance(backbone.schedule, FlowSchedule):
        raise UsageError(f"{backbone.name} follows a flow; only models with a noise schedule are inverted.")
    if config.scheduler != "ddim":
        raise UsageError(f"inversion runs DDIM backwards; expected scheduler 'ddim', got {config.scheduler!r}.")
    if len(prompts) != len(latents) or fixed_point_iterations < 1:
        raise UsageError(
            f"invert needs one prompt per picture and at least one iteration, got {len(prompts)} prompts, "
            f"{len(latents)} pictures and {fixed_point_iterations} iterations."
        )
    reporter, size = reporter or SilentReporter(), _size(backbone, latents)
    conditioning = backbone.encode_prompt(list(prompts), size=size)
    if config.guidance_scale != 1.0:
        empty = backbone.encode_prompt([""] * len(prompts), size=size)
        conditioning = Conditioning.cat([empty, conditioning])
    states = [latents.to(backbone.device, torch.float32)]
    steps = _steps(backbone, config)
    for index, (lower, timestep) in enumerate(steps):
        known, estimate = states[-1], states[-1]
        for _ in range(fixed_point_iterations):
            epsilon = _epsilon(backbone, estimate, timestep, conditioning, config.guidance_scale)
            estimate = _raise(backbone, known, epsilon, lower, timestep)
        states.append(estimate)
        reporter.progress("invert", index + 1, len(steps))
    return states


def _size(backbone: AbstractBackbone, latents: Tensor) -> tuple[int, int]:
    return latents.shape[-2] * backbone.vae_factor, latents.shape[-1] * backbone.vae_factor


def _steps(backbone: AbstractBackbone, config: SampleConfig) -> list[tuple[int, int]]:
    """Pairs of timesteps `(lower, higher)` from the cleanest up, as the sampler's own update pairs them.

    The scheduler steps down by a fixed stride; below zero it takes the first entry of its table.
    """
    scheduler = build_scheduler(backbone, config)
    stride = scheduler.config.num_train_timesteps // config.num_inference_steps
    return [(max(int(t) - stride, 0), int(t)) for t in reversed(scheduler.timesteps.tolist())]


def _epsilon(
    backbone: AbstractBackbone, latents: Tensor, timestep: int, conditioning: Conditioning, guidance_scale: float
) -> Tensor:
    guided = guidance_scale != 1.0
    doubled = torch.cat([latents, latents]) if guided else latents
    timesteps = torch.full((len(doubled),), timestep, device=latents.device)
    prediction = backbone.predict(doubled, timesteps, conditioning).float()
    if guided:
        negative, positive = prediction.chunk(2)
        prediction = combine_guidance(negative, positive, guidance_scale)
    return backbone.schedule.to_epsilon(prediction, latents, timesteps[: len(latents)])


def _raise(backbone: AbstractBackbone, latents: Tensor, epsilon: Tensor, lower: int, higher: int) -> Tensor:
    """The x at `higher` that one DDIM step with this noise brings to `latents` at `lower`."""
    ones = torch.ones(len(latents), dtype=torch.long, device=latents.device)
    signal, sigma = backbone.schedule.coefficients(ones * lower, latents)
    clean = (latents - sigma * epsilon) / signal
    return backbone.schedule.add_noise(clean, epsilon, ones * higher)
