"""A picture taken apart into an attribute and an object (CusConcept, Xu et al. 2024, arXiv 2410.00398)."""

from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.mixture import MixtureAdapter
from pcs_ext.image.terms.base import AbstractTerm, Step


@config
class DecomposeConfig:
    """The object must say the picture by itself, too; and words stay near their mixtures."""

    kind: Literal["decompose"] = "decompose"
    """Tag of this term in JSON."""
    alone: float = 1.0
    """Weight of the denoising error under the last mixture's word alone; the released code has 1, then 0.7."""
    offset: float = 1.0
    """Weight of the squared lengths of the offsets; the released code's."""


class DecomposeTerm(AbstractTerm):
    """alone * || e(x_t, "a photo of a OBJECT") - target ||^2 + offset * sum of squared offsets; a second pass."""

    name = "decompose"

    def __init__(self, config: DecomposeConfig) -> None:
        self.config = config

    def __call__(self, step: Step) -> Tensor:
        words = [adapter for adapter in step.adapters.values() if isinstance(adapter, MixtureAdapter)]
        if not words:
            raise ConfigError("decompose is about adapters of kind mixture; the recipe has none.")
        asked = step.asked()
        told = step.backbone.encode_prompt([f"a photo of a {words[-1].tokens[0]}"] * len(asked.latents))
        prediction = step.backbone.predict(asked.latents, asked.timesteps, told)
        alone = (prediction.float() - asked.target.float()).square().mean()
        lengths = torch.stack([adapter.offsets().square().sum() for adapter in words]).sum()
        return self.config.alone * alone + self.config.offset * lengths
