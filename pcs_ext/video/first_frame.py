"""Sampling after a given first frame (LAMP, Wu et al. 2023, arXiv 2310.10769)."""

import dataclasses

import torch
from torch import Tensor

from pcs_ext.image.sample import Predict, SampleHooks
from pcs_ext.image.types import Conditioning


def after_first_frame(first: Tensor, hooks: SampleHooks) -> SampleHooks:
    """Hooks that keep the first frame clean, where the denoiser sees it and in the end; colours follow it.

    The denoiser was trained on clips whose first frame has no noise at any timestep.

    Args:
        first: clean latents `1 c h w`.
        hooks: with `decode`; wrappers and step hooks see the first frame clean, and cannot change it.
    """
    decode, wrap, on_step = hooks.decode, hooks.predict, hooks.on_step
    assert decode is not None, "clips need their own decoder"

    def clean(latents: Tensor) -> Tensor:
        given = first[:, :, None].to(latents).expand(len(latents), -1, -1, -1, -1)
        return torch.cat([given, latents[:, :, 1:]], 2)

    def predict(inner: Predict) -> Predict:
        inner = inner if wrap is None else wrap(inner)

        def run(latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            return inner(clean(latents), timesteps, conditioning)

        return run

    return dataclasses.replace(
        hooks,
        predict=predict,
        on_step=lambda step, timestep, latents: clean(latents if on_step is None else on_step(step, timestep, latents)),
        decode=lambda latents: with_colours_of_first(decode(latents)),
    )


def with_colours_of_first(clips: Tensor) -> Tensor:
    """Clips `b c f h w` whose frames have the first frame's histogram, channel by channel, exactly."""
    cells = clips.flatten(3)
    levels = cells[:, :, :1].sort(-1).values.expand_as(cells)
    ranks = cells.argsort(-1).argsort(-1)
    return levels.gather(-1, ranks).reshape(clips.shape)
