"""Clips from prompts: the core's sampling loop on latents with frames."""

import contextlib
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import UsageError
from pcs_ext.image.flow import FlowSchedule
from pcs_ext.image.sample import SampleConfig, SampleHooks, build_scheduler, initial_noise, sample
from pcs_ext.reporter import Reporter
from pcs_ext.runtime import generator_for
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.first_frame import after_first_frame
from pcs_ext.video.free_init import next_start
from pcs_ext.video.latent_motion import moving_start
from pcs_ext.video.long_clips import rescheduled_noise
from pcs_ext.video.noise import blended_noise, correlated_noise, shared_noise, with_common


@config
class ClipConfig:
    """What a clip is sampled as, beside what `SampleConfig` says of its frames."""

    frames: int | None = None
    """Frames; None: what the motion was learned for."""
    noise: Literal["model", "independent", "correlated", "shared", "moving"] = "model"
    """How the frames' starts relate. model: as the model was trained, for most independent; else see `video.noise`, and
    for moving `video.latent_motion`."""
    share: float = 0.1
    """correlated: covariance of neighbours; shared: weight of the common noise; else not read. In [0, 1]."""
    shift: float = 12 / 512
    """moving: by which share of the sides everything moves from frame to frame; Text2Video-Zero's, as recalled."""
    inverted_share: float = 0.0
    """Share of a reference clip's inverted noise in the start, in [0, 1]; above 0 needs such a clip."""
    first_frame: bool = False
    """Whether the first frame is given, stays clean, and lends its colours to the others (LAMP)."""
    window: int = 0
    """Frames that temporal layers see at once of a longer clip, half of them anew in each window (FreeNoise); its start
    is drawn for one window and goes on in another order. 0: all frames at once."""
    refinements: int = 0
    """Further rounds of sampling that start from low frequencies of the clip before (FreeInit; its paper: 2 to 4)."""


def starting_noise(
    backbone: AbstractVideoBackbone,
    seeds: Sequence[int],
    config: SampleConfig,
    clip: ClipConfig,
    inverted: Tensor | None = None,
) -> Tensor:
    """Latents to start from, `n c f h w` of unit deviation; a clip depends on its own seed alone.

    Args:
        backbone: decides size and, unless told, frames.
        seeds: one per clip.
        config: height and width.
        clip: frames and how they relate.
        inverted: noise that a reference clip came from, `1 c f h w` or one per seed, for `inverted_share`.

    Raises:
        UsageError: no frames, or a share without a clip, or a clip of another shape.
    """
    frames = clip.frames if clip.frames is not None else backbone.frames
    if frames < 1:
        raise UsageError(f"a clip needs at least one frame, got {frames}.")
    shape = initial_noise(backbone, seeds[:1], config).shape
    if backbone.whole_frames(frames) != frames:
        raise UsageError(
            f"{backbone.name} makes clips of a multiple of {backbone.time_factor} frames and one more, got {frames}; "
            f"take {backbone.whole_frames(frames)}."
        )
    shape = (1, shape[1], backbone.latent_frames(frames), *shape[2:])
    noise = torch.cat(
        [_noise(shape, clip, backbone.noise_share, torch.Generator().manual_seed(seed)) for seed in seeds]
    )
    if clip.inverted_share == 0:
        return noise
    if inverted is None or inverted.shape[1:] != noise.shape[1:] or len(inverted) not in (1, len(seeds)):
        got = "none" if inverted is None else tuple(inverted.shape)
        raise UsageError(
            f"inverted_share {clip.inverted_share} needs inverted noise of shape {tuple(shape)}, got {got}."
        )
    return blended_noise(inverted, noise, clip.inverted_share)


def _noise(shape: tuple[int, ...], clip: ClipConfig, trained_share: float, generator: torch.Generator) -> Tensor:
    share = trained_share if clip.noise == "model" else clip.share
    if clip.noise == "correlated":
        return correlated_noise(shape, share, generator)
    if clip.noise == "shared":
        return shared_noise(shape, share, generator)
    if clip.window and clip.noise in ("model", "independent"):
        own = rescheduled_noise(shape, clip.window, max(1, clip.window // 2), generator)
    else:
        own = torch.randn(shape, generator=generator)
    return own if clip.noise != "model" else with_common(own, share, generator)


def _moving(
    backbone: AbstractVideoBackbone,
    prompts: Sequence[str],
    seeds: Sequence[int],
    config: SampleConfig,
    clip: ClipConfig,
    negatives: Sequence[str] | None,
) -> Tensor:
    frames = clip.frames if clip.frames is not None else backbone.frames
    away = negatives if negatives is not None else [""] * len(prompts)
    starts = [
        moving_start(backbone, text, seed=seed, config=config, frames=frames, shift=clip.shift, negative=negative)
        for text, seed, negative in zip(prompts, seeds, away, strict=True)
    ]
    return torch.cat(starts).cpu()


def sample_clips(
    backbone: AbstractVideoBackbone,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    config: SampleConfig,
    clip: ClipConfig | None = None,
    inverted: Tensor | None = None,
    first: Tensor | None = None,
    negative_prompts: Sequence[str] | None = None,
    batch_size: int = 1,
    hooks: SampleHooks | None = None,
    reporter: Reporter | None = None,
) -> Tensor:
    """Clips of prompts, `n 3 f h w` in [-1, 1], float32 on the CPU.

    Not decorated with `no_grad`: wrap the call when no gradient is wanted.

    Args:
        backbone: with adapters already injected.
        prompts: `n` texts.
        seeds: `n` seeds.
        config: scheduler, steps, guidance, size.
        clip: frames and starting noise.
        inverted: see `starting_noise`.
        first: clean latents of the first frame of the one clip, `1 c h w`, for `ClipConfig.first_frame`.
        negative_prompts: `n` texts to stay away from; None: empty ones.
        batch_size: clips sampled together; does not change them beyond rounding.
        hooks: as in the core's `sample`; `decode` gets latents `b c f h w`; `initial_latents` goes before `clip`.
        reporter: hears the progress in clips.

    Raises:
        UsageError: unequal counts, sizes the base cannot make, or starting noise that does not fit.
    """
    hooks, clip = hooks or SampleHooks(), clip or ClipConfig()
    if hooks.initial_latents is None and prompts and len(prompts) == len(seeds):
        noise = starting_noise(backbone, seeds, config, clip, inverted)
        if clip.noise == "moving" and clip.inverted_share == 0:
            noise = _moving(backbone, prompts, seeds, config, clip, negative_prompts)
        # The loop takes latents at the scheduler's highest level, which is no unit deviation for Euler's.
        sigma = build_scheduler(backbone, config).init_noise_sigma
        hooks = dataclasses.replace(hooks, initial_latents=noise * sigma)
    hooks = dataclasses.replace(hooks, decode=hooks.decode or backbone.decode_clips)
    _check_rounds(clip, hooks, config, backbone)
    if clip.first_frame != (first is not None) or (first is not None and len(prompts) != 1):
        raise UsageError(
            f"a first frame is given exactly when first_frame is set, for one clip at a time; it is "
            f"{clip.first_frame}, got {'none' if first is None else 'one'} for {len(prompts)} clips."
        )
    if first is not None:
        hooks = after_first_frame(first, hooks)
    how: dict[str, Any] = {
        "seeds": seeds, "config": config, "negative_prompts": negative_prompts, "batch_size": batch_size,
        "reporter": reporter,
    }  # fmt: skip
    windows = backbone.windowed(clip.window, max(1, clip.window // 2)) if clip.window else contextlib.nullcontext()
    with windows:
        first_start = hooks.initial_latents
        for number in range(clip.refinements):
            assert first_start is not None, "drawn above, or given"
            hooks = _refined(backbone, prompts, hooks, first_start, how, number)
        return sample(backbone, prompts, hooks=hooks, **how)


def _check_rounds(clip: ClipConfig, hooks: SampleHooks, config: SampleConfig, backbone: AbstractVideoBackbone) -> None:
    if clip.refinements and (clip.first_frame or hooks.first_step or isinstance(backbone.schedule, FlowSchedule)):
        raise UsageError("refinements are for clips that start from noise alone, on a base with a noise schedule.")


def _refined(
    backbone: AbstractVideoBackbone,
    prompts: Sequence[str],
    hooks: SampleHooks,
    first_start: Tensor,
    how: Mapping[str, Any],
    number: int,
) -> SampleHooks:
    """The hooks of the next round: they start from what this one ends in, at the noise of the first one's start."""
    ends: list[Tensor] = []

    def keep(latents: Tensor) -> Tensor:
        ends.append(latents.detach())
        return latents.new_zeros(len(latents), 1)

    sample(backbone, prompts, hooks=dataclasses.replace(hooks, decode=keep), **how)
    sigma = build_scheduler(backbone, how["config"]).init_noise_sigma
    # Not this round's: that holds a part of the clip already, which would be fed in again and again.
    start = first_start / sigma
    draws = [torch.randn(start.shape[1:], generator=generator_for("refinement", number, s)) for s in how["seeds"]]
    abar = float(backbone.schedule.alphas_cumprod[-1])  # type: ignore[union-attr]
    latents = torch.cat(ends).cpu()
    return dataclasses.replace(
        hooks, initial_latents=next_start(latents, start.cpu(), torch.stack(draws), abar) * sigma
    )
