"""Pictures made anew from pictures: noised part of the way and denoised again (SDEdit, arXiv 2108.01073)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.flow import FlowSchedule
from pcs_ext.image.sample import SampleConfig, SampleHooks, build_scheduler, initial_noise, sample
from pcs_ext.reporter import Reporter


def image_to_image(
    backbone: AbstractBackbone,
    images: Tensor,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    strength: float,
    config: SampleConfig,
    negative_prompts: Sequence[str] | None = None,
    noise: Tensor | None = None,
    batch_size: int | None = None,
    reporter: Reporter | None = None,
) -> Tensor:
    """Every picture noised up to a level and denoised under its prompt: `n 3 h w` in [-1, 1], float32 on the CPU.

    Each depends on its own picture, prompt and seed alone. Not decorated with `no_grad`.

    Args:
        backbone: with adapters already injected.
        images: `n 3 h w` in [-1, 1]; resized to the config's sides, else to the base's resolution.
        prompts: `n` texts.
        seeds: `n` seeds of the noise.
        strength: noise level to start at, as a share of the schedule's timesteps, in (0, 1]; one step at least.
        config: how to sample; the steps above the level are left out.
        negative_prompts: `n` texts to stay away from; None: empty ones.
        noise: unit normal, like the pictures' latents `n c h w`; None draws it from the seeds.
        batch_size: pictures treated together; None: see `sample`.
        reporter: hears the progress.

    Raises:
        UsageError: unequal counts, a strength out of range, or a base that follows a flow.
    """
    if not 0 < strength <= 1:
        raise UsageError(f"the strength of image-to-image must be in (0, 1], got {strength}.")
    if not len(images) == len(prompts) == len(seeds):
        raise UsageError(f"expected a prompt and a seed per picture, got {len(images)}, {len(prompts)}, {len(seeds)}.")
    if isinstance(backbone.schedule, FlowSchedule):
        raise UsageError(f"{backbone.name} follows a flow; image-to-image needs a base with a noise schedule.")
    scheduler = build_scheduler(backbone, config)
    first = first_step(scheduler.timesteps, strength * backbone.schedule.num_train_timesteps)
    size = (config.height or backbone.resolution, config.width or backbone.resolution)
    clean = encode_one_by_one(backbone, _resized(images, size))
    noise = (initial_noise(backbone, seeds, config) if noise is None else noise).to(clean)
    start = scheduler.add_noise(clean, noise, scheduler.timesteps[first : first + 1].expand(len(clean)))
    hooks = SampleHooks(initial_latents=start, first_step=first)
    return sample(
        backbone, prompts, seeds=seeds, config=config, negative_prompts=negative_prompts, batch_size=batch_size,
        hooks=hooks, reporter=reporter,
    )  # fmt: skip


def first_step(timesteps: Tensor, level: float) -> int:
    """Index of the first of falling timesteps at or below a level; the last index when none is."""
    below = torch.nonzero(timesteps <= level)[:, 0]
    return int(below[0]) if len(below) else len(timesteps) - 1


def encode_one_by_one(backbone: AbstractBackbone, images: Tensor) -> Tensor:
    """Latents `n c h w`, float32, each encoded alone: rounding must not depend on the neighbours."""
    return torch.cat([backbone.encode_images(image[None].to(backbone.device)).float() for image in images])


def _resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    if images.shape[2:] == size:
        return images
    return F.interpolate(images, size, mode="bilinear", antialias=True)
