"""A subject's words that can do without what is particular to a photo (DisenBooth, Chen et al., arXiv 2305.03374)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.image_residual import ImageResidualAdapter
from pcs_ext.image.masked_loss import denoising_errors
from pcs_ext.image.terms.base import AbstractTerm, Step
from pcs_ext.image.types import Conditioning


@config
class DisentangleConfig:
    """Weak denoising by the words alone (equation 5), and words unlike the photo's vector (equation 6)."""

    kind: Literal["disentangle"] = "disentangle"
    """Tag of this term in JSON."""
    weak_weight: float = 0.01
    """Of the denoising error without the photo's vector (the paper's)."""
    cosine_weight: float = 0.001
    """Of the cosine of mean text state and vector (the paper's)."""
    sample_weight: float = 0.0
    """Of the denoising error by the photo's vector alone (DisenDreamer, Chen et al. 2024: weak sample-aware denoising);
    0 takes no third pass."""


class DisentangleTerm(AbstractTerm):
    """All of them, weighted and summed; a second pass of the denoiser per step, or a third."""

    name = "disentangle"

    def __init__(self, config: DisentangleConfig) -> None:
        self.config = config

    def __call__(self, step: Step) -> Tensor:
        adapters = [adapter for adapter in step.adapters.values() if isinstance(adapter, ImageResidualAdapter)]
        if not adapters:
            raise ConfigError("disentangle is about adapters of kind image_residual; the recipe has none.")
        weak = _error(step, step.conditioning)
        cosines = [alikeness(step.conditioning.states, adapter.vectors(step.batch)) for adapter in adapters]
        total = self.config.weak_weight * weak + self.config.cosine_weight * torch.stack(cosines).sum()
        if self.config.sample_weight:
            alone = torch.stack([_error(step, adapter.alone(step.conditioning, step.batch)) for adapter in adapters])
            total = total + self.config.sample_weight * alone.sum()
        return total


def _error(step: Step, told: Conditioning) -> Tensor:
    """The denoising error under other conditioning, 0-d."""
    asked = step.asked()
    return denoising_errors(step.backbone.predict(asked.latents, asked.timesteps, told), asked.target).mean()


def alikeness(states: Tensor, vectors: Tensor) -> Tensor:
    """Mean over the batch of the cosine of the mean of states `b n d` and vectors `b d`, 0-d."""
    return F.cosine_similarity(states.float().mean(1), vectors.float(), dim=-1, eps=1e-6).mean()
