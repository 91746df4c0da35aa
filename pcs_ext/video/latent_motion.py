"""Starts of clips that an image model makes: one start, moved along from frame to frame.

Text2Video-Zero's motion dynamics (Khachatryan et al. 2023, arXiv 2303.13439); VideoDreamer is recalled to build on it.
"""

import dataclasses
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.flow import FlowSchedule
from pcs_ext.image.guidance import combine_guidance
from pcs_ext.image.sample import SampleConfig, build_scheduler, initial_noise
from pcs_ext.image.types import Conditioning
from pcs_ext.runtime import generator_for
from pcs_ext.video.backbone import AbstractVideoBackbone

_LEAD = 0.06
"""Share of the schedule that is denoised before the move and noised again after it; 60 of 1,000 steps, as recalled."""


def moved_along(picture: Tensor, frames: int, shift: float) -> Tensor:
    """Frame k is the picture moved right and down by `k * shift` of its sides; what comes in is mirrored at the edge.

    Args:
        picture: `1 c h w`.
        frames: how many.
        shift: share of a side per frame.

    Returns:
        `1 c frames h w`.
    """
    h, w = picture.shape[-2:]
    rows, columns = torch.meshgrid(
        (torch.arange(h, device=picture.device) * 2 + 1) / h - 1,
        (torch.arange(w, device=picture.device) * 2 + 1) / w - 1,
        indexing="ij",
    )
    grid = torch.stack([columns, rows], -1)
    moves = 2 * shift * torch.arange(frames, device=picture.device).reshape(-1, 1, 1, 1)
    found = F.grid_sample(
        picture.expand(frames, -1, -1, -1),
        grid - moves,
        mode="bilinear",
        padding_mode="reflection",
        align_corners=False,
    )
    return found.transpose(0, 1)[None]


def noised_up(latents: Tensor, abar_from: float, abar_to: float, noise: Tensor) -> Tensor:
    """Latents at a lower level brought to a higher one by the forward process: sqrt(r) x + sqrt(1 - r) eps, r = abar
    at the higher level over abar at the lower one."""
    ratio = abar_to / abar_from
    return ratio**0.5 * latents + (1 - ratio) ** 0.5 * noise


def moving_start(
    backbone: AbstractVideoBackbone,
    prompt: str,
    *,
    seed: int,
    config: SampleConfig,
    frames: int,
    shift: float,
    negative: str = "",
) -> Tensor:
    """Latents of a clip to start from, `1 c f h w` of about unit deviation.

    A picture is denoised for the first few steps, moved along, and noised again, each frame by noise of its own.

    Args:
        backbone: makes the picture; with adapters injected.
        prompt: of it.
        seed: of all noise.
        config: size and guidance.
        frames: of the clip.
        shift: see `moved_along`.
        negative: what guidance goes away from.

    Raises:
        UsageError: a base that follows a flow.
    """
    if isinstance(backbone.schedule, FlowSchedule):
        raise UsageError(f"{backbone.name} follows a flow; moving starts need a base with a noise schedule.")
    latents = initial_noise(backbone, [seed], config).to(backbone.device)
    scheduler = build_scheduler(backbone, dataclasses.replace(config, scheduler="ddim"))
    lead = max(1, round(_LEAD * config.num_inference_steps))
    conditioning = _guided(backbone, [negative, prompt], config)
    for time in scheduler.timesteps[:lead]:
        doubled = torch.cat([latents] * conditioning.batch_size)
        prediction = backbone.predict(doubled, time.expand(len(doubled)), conditioning).float()
        if len(doubled) == 2:
            prediction = combine_guidance(*prediction.chunk(2), config.guidance_scale)
        latents = scheduler.step(prediction, time, latents).prev_sample
    moved = moved_along(latents, frames, shift)
    abar, stride = scheduler.alphas_cumprod, scheduler.config.num_train_timesteps // config.num_inference_steps
    reached, top = int(scheduler.timesteps[lead - 1]) - stride, int(scheduler.timesteps[0])
    # A stream of its own: `seed + 1` is what the next seed's picture starts from.
    noise = torch.randn(moved.shape, generator=generator_for(seed, "moved")).to(moved)
    return noised_up(moved, float(abar[max(reached, 0)]), float(abar[top]), noise)


def _guided(backbone: AbstractVideoBackbone, prompts: Sequence[str], config: SampleConfig) -> Conditioning:
    return backbone.encode_prompt(list(prompts) if config.guidance_scale != 1 else list(prompts)[1:])
