"""Panoramas out of a model for pictures: round the circle, or as papers did it."""

import contextlib
import dataclasses
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import UsageError
from pcs_ext.image.adapters.layers import merged
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.sample import Predict, SampleConfig, SampleHooks, build_scheduler, check_side, initial_noise, sample
from pcs_ext.reporter import Reporter
from pcs_ext.svg.panorama.circular import circular_padding, decode_circular
from pcs_ext.svg.panorama.stitch import middle, periodic, stitch_plan
from pcs_ext.svg.panorama.windows import WindowPlan, plan_windows, windowed

Method = Literal["auto", "padded", "circular", "stitch", "multidiffusion"]


@config
class PanoramaConfig:
    """How a panorama is sampled."""

    method: Method = "auto"
    """auto: padded where a UNet sees the whole panorama (`window` is wide), else circular. padded: the whole panorama
    at once, the denoiser's convolutions going on at the other end. circular: windows all around, feathered. Both are
    decoded across the seam. stitch: StitchDiffusion (WACV 2024). multidiffusion: windows from edge to edge (arXiv
    2302.08113), which know nothing of the seam."""
    window: Literal["wide", "square"] = "wide"
    """wide: a window sees as much as the panorama is wide, as a model tuned on panoramas wants; square: as high as it
    is wide, what an untuned model knows. `padded` and `stitch` are wide always."""
    strides: int = 8
    """Windows begin at every 1/strides of the panorama's width, rounded to cells of the latent."""
    windows_per_batch: int = 4
    """Denoised at once; bounds memory, changes nothing beyond rounding."""
    sampling: SampleConfig = dataclasses.field(default_factory=SampleConfig)
    """Scheduler, steps and guidance. The height is the base's resolution unless given; the width is twice that."""


def sample_panoramas(
    backbone: AbstractBackbone,
    prompts: Sequence[str],
    *,
    seeds: Sequence[int],
    config: PanoramaConfig,
    negative_prompts: Sequence[str] | None = None,
    reporter: Reporter | None = None,
) -> Tensor:
    """Equirectangular pictures, `n 3 h 2h` in [-1, 1], float32 on the CPU.

    Args:
        backbone: with adapters already injected.
        prompts: `n` texts.
        seeds: `n` seeds.
        config: how.
        negative_prompts: `n` texts to stay away from; None: empty ones.
        reporter: hears the progress.

    Raises:
        UsageError: unequal counts, a height the base cannot have, a width of another proportion, strides that do not
            fit, or `padded` with a denoiser that is no UNet.
    """
    height = config.sampling.height or backbone.resolution
    if config.sampling.width not in (None, 2 * height):
        raise UsageError(
            f"a panorama is twice as wide as high: expected width {2 * height}, got {config.sampling.width}."
        )
    check_side("height", height, backbone)
    if config.strides < 1:
        raise UsageError(f"strides must be at least 1, got {config.strides}.")
    if config.method == "auto":
        whole = config.window == "wide" and isinstance(backbone, AbstractUnetBackbone)
        config = dataclasses.replace(config, method="padded" if whole else "circular")
    if config.method == "padded" and not isinstance(backbone, AbstractUnetBackbone):
        raise UsageError(f"method padded turns a UNet's convolutions round the circle, and {backbone.name} has none: "
                         "choose circular.")  # fmt: skip
    stitched = config.method == "stitch"
    sampling = dataclasses.replace(config.sampling, height=height, width=(4 if stitched else 2) * height)
    # The hooks here leave adapters alone, so that they can be merged, as `sample` does without hooks.
    with contextlib.nullcontext() if torch.is_grad_enabled() else merged(backbone.denoiser):
        return sample(
            backbone,
            prompts,
            seeds=seeds,
            config=sampling,
            negative_prompts=negative_prompts,
            batch_size=1,
            hooks=_hooks(backbone, seeds, sampling, config),
            reporter=reporter,
        )


def _hooks(
    backbone: AbstractBackbone, seeds: Sequence[int], sampling: SampleConfig, config: PanoramaConfig
) -> SampleHooks:
    if isinstance(backbone, AbstractUnetBackbone) and config.method == "padded":
        return SampleHooks(
            attention=lambda: circular_padding(backbone.denoiser),
            decode=lambda latents: decode_circular(backbone, latents),
        )
    plan = _plan(config, (sampling.height or backbone.resolution) // backbone.vae_factor)
    if config.method == "stitch":
        return _stitching(backbone, seeds, sampling, plan, config)
    return _looking(backbone, plan, config)


def _plan(config: PanoramaConfig, cells: int) -> WindowPlan:
    """Windows on a latent `cells` high."""
    if config.method == "stitch":
        return stitch_plan(2 * cells)
    window = 2 * cells if config.window == "wide" else cells
    return plan_windows(2 * cells, window, -(-2 * cells // config.strides), wrap=config.method == "circular")


def _looking(backbone: AbstractBackbone, plan: WindowPlan, config: PanoramaConfig) -> SampleHooks:
    def fuse(predict: Predict) -> Predict:
        return windowed(predict, plan, windows_per_batch=config.windows_per_batch)

    def decode(latents: Tensor) -> Tensor:
        return decode_circular(backbone, latents)

    return SampleHooks(predict=fuse, decode=decode if config.method == "circular" else None)


def _stitching(
    backbone: AbstractBackbone, seeds: Sequence[int], sampling: SampleConfig, plan: WindowPlan, config: PanoramaConfig
) -> SampleHooks:
    """Hooks for the canvas of `stitch`: made periodic before every step, decoded whole and cropped."""
    sigma = build_scheduler(backbone, sampling).init_noise_sigma
    last = sampling.num_inference_steps - 1

    def fuse(predict: Predict) -> Predict:
        return windowed(predict, plan, windows_per_batch=config.windows_per_batch)

    def after(step: int, timestep: Tensor, canvas: Tensor) -> Tensor:
        return canvas if step == last else periodic(canvas)

    def decode(canvas: Tensor) -> Tensor:
        return middle(backbone.decode_latents(canvas))

    start = periodic(initial_noise(backbone, seeds, sampling)) * torch.as_tensor(sigma).cpu()
    return SampleHooks(predict=fuse, on_step=after, decode=decode, initial_latents=start)
