"""A part of a picture by itself (CLiC, Safaee et al. 2023, arXiv 2311.17083): the word must say it without its host."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.concept import SUBJECT
from pcs_ext.image.terms.base import AbstractTerm, Step


@config
class RegionConfig:
    """The denoising error of latents that are zero outside the mask, under a caption of the word alone."""

    kind: Literal["region"] = "region"
    """Tag of this term in JSON."""
    template: str = "a photo of {subject}"
    """The caption; the learned word takes the place of `{subject}`."""
    weight: float = 0.5
    """The paper's."""

    def __post_init__(self) -> None:
        if SUBJECT not in self.template:
            raise ConfigError(f"the template of a region says {SUBJECT}, where the word goes; got {self.template!r}.")


class RegionTerm(AbstractTerm):
    """Mean over the photos with masks, and over the words, of || e(M x_t, c, t) - target ||^2; a pass per word."""

    name = "region"

    def __init__(self, config: RegionConfig) -> None:
        self.config = config

    def __call__(self, step: Step) -> Tensor:
        masks, asked = step.batch.masks, step.asked()
        if masks is None:
            return asked.latents.new_zeros(())
        cells = F.interpolate(masks.to(asked.latents), size=asked.latents.shape[-2:], mode="area")
        errors: list[Tensor] = []
        for adapter in step.words().values():
            caption = self.config.template.replace(SUBJECT, adapter.tokens[0])
            told = step.backbone.encode_prompt([caption] * len(cells))
            prediction = step.backbone.predict(cells * asked.latents, asked.timesteps, told)
            errors.append((prediction.float() - asked.target.float()).square().mean())
        return self.config.weight * torch.stack(errors).mean()
