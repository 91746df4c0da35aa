"""Sampling step by step: DDIM with as much noise as wanted, and how probable a step was."""

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.guidance import combine_guidance
from pcs_ext.image.noise import NoiseSchedule
from pcs_ext.image.types import Conditioning


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is sampled."""

    positive: Conditioning
    negative: Conditioning | None
    """None: no guidance."""
    scale: float


def asked(backbone: AbstractBackbone, prompts: Sequence[str], guidance_scale: float) -> Asked:
    """Conditioning of prompts, and of as many empty ones where guidance wants them, as pictures are sampled."""
    negative = None if guidance_scale == 1 else backbone.encode_negative([""] * len(prompts))
    return Asked(backbone.encode_prompt(prompts), negative, guidance_scale)


class Steps:
    """The steps of DDIM (arXiv 2010.02502, eq. 12 and 16), from noise to a picture.

    Args:
        backbone: predicts.
        count: of steps, evenly over the noise levels, the last one at the lowest.

    Raises:
        ConfigError: a base that follows a flow, whose steps are others.
    """

    def __init__(self, backbone: AbstractBackbone, count: int) -> None:
        if not isinstance(backbone.schedule, NoiseSchedule):
            raise ConfigError(f"rewards need a base with a noise schedule; {backbone.name} follows a flow.")
        self.backbone, self.schedule, self.count = backbone, backbone.schedule, count
        total = self.schedule.num_train_timesteps
        self.timesteps = [round(total * (count - index) / count) - 1 for index in range(count)]

    def predicted(self, latents: Tensor, index: int, told: Asked) -> tuple[Tensor, Tensor]:
        """The clean latents and the noise that the base sees in `latents` before step `index`, float32."""
        times = torch.full((len(latents),), self.timesteps[index], device=latents.device)
        prediction = self.backbone.predict(latents, times, told.positive).float()
        if told.negative is not None:
            prediction = combine_guidance(
                self.backbone.predict(latents, times, told.negative).float(), prediction, told.scale
            )
        clean = self.schedule.to_x0(prediction, latents, times)
        return clean, self.schedule.to_epsilon(prediction, latents, times)

    def mean(self, clean: Tensor, noise: Tensor, index: int, eta: float) -> tuple[Tensor, float]:
        """Where step `index` goes, and the standard deviation around it: `eta` 0 none, 1 as much as DDPM."""
        here = float(self.schedule.alphas_cumprod[self.timesteps[index]])
        there = float(self.schedule.alphas_cumprod[self.timesteps[index + 1]]) if index + 1 < self.count else 1.0
        sigma = eta * math.sqrt((1 - there) / (1 - here) * (1 - here / there))
        return math.sqrt(there) * clean + math.sqrt(max(1 - there - sigma**2, 0.0)) * noise, sigma


def log_probability(latents: Tensor, mean: Tensor, sigma: float) -> Tensor:
    """Of latents under a normal distribution, up to a constant, a mean over elements as in DDPO's code: `b`."""
    return (-(latents - mean).square() / (2 * sigma**2)).flatten(1).mean(1)
