"""What the base says of the class, kept (DreamBooth++, Zhang et al., ACM MM 2024)."""

from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.concept import SUBJECT, fill
from pcs_ext.image.masked_loss import denoising_errors
from pcs_ext.image.terms.base import AbstractTerm, Step


@config
class PreserveConfig:
    """Predictions under captions of the class noun, held to those of the base without the adapters."""

    kind: Literal["preserve"] = "preserve"
    """Tag of this term in JSON."""
    noun: str
    """The class noun."""
    templates: tuple[str, ...] = ("a photo of {subject}",)
    """Captions, one is drawn per row; `{subject}` is the noun."""
    weight: float = 1.0
    """Of the mean squared difference."""

    def __post_init__(self) -> None:
        if not self.templates or not all(SUBJECT in template for template in self.templates):
            raise ConfigError(f"every template of preserve says {SUBJECT}, and there must be one.")


class PreserveTerm(AbstractTerm):
    """Mean squared difference on the step's own noisy latents; two more passes of the denoiser, no class images."""

    name = "preserve"

    def __init__(self, config: PreserveConfig) -> None:
        self.config = config

    def __call__(self, step: Step) -> Tensor:
        asked, config = step.asked(), self.config
        drawn = torch.randint(len(config.templates), (len(asked.latents),), generator=step.generator).tolist()
        captions = [fill(config.templates[index], config.noun) for index in drawn]
        base = self._of_base(step, captions)
        own = step.backbone.predict(asked.latents, asked.timesteps, step.backbone.encode_prompt(captions))
        return config.weight * denoising_errors(own, base).mean()

    @torch.no_grad()
    def _of_base(self, step: Step, captions: list[str]) -> Tensor:
        asked, adapters = step.asked(), step.adapters.values()
        try:
            for adapter in adapters:
                adapter.set_scale(0.0)
            return step.backbone.predict(asked.latents, asked.timesteps, step.backbone.encode_prompt(captions))
        finally:
            for adapter in adapters:
                adapter.set_scale(1.0)
