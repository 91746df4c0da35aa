"""A picture before and after: what it shows to one update, what was done to it to another (arXiv 2405.01536)."""

from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.pair import PairAdapter
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.latent_cache import LatentCache
from pcs_ext.image.terms.base import AbstractTerm, Step


@config
class PairTermConfig:
    """Denoising errors of the picture before, by content alone, and of the picture after, by content and style."""

    kind: Literal["pair"] = "pair"
    """Tag of this term in JSON."""
    style: bool = True
    """Whether the second pass takes place; first content is learned by itself."""


class PairTerm(AbstractTerm):
    """Their sum. Captions are of the picture after; of the one before they are said without the style's phrase.

    Both passes share noise and timesteps. The second teaches content nothing.
    """

    name = "pair"

    def __init__(self, config: PairTermConfig) -> None:
        self.config = config
        self._latents: LatentCache | None = None

    def __call__(self, step: Step) -> Tensor:
        pairs = [adapter for adapter in step.adapters.values() if isinstance(adapter, PairAdapter)]
        if len(pairs) != 1 or step.batch.before is None:
            raise ConfigError(
                "pair needs one adapter of kind pair, and for every photo the picture before it; got "
                f"{len(pairs)} such adapters and {'no' if step.batch.before is None else 'such'} pictures."
            )
        (adapter,), backbone, captions = pairs, step.backbone, step.batch.captions
        latents = self._latents = self._latents or LatentCache(backbone)
        before, after = latents.before(step.batch), latents(step.batch)
        noise = torch.randn(before.shape, generator=step.generator).to(backbone.device)
        timesteps = backbone.schedule.draw_timesteps(len(before), step.generator).to(backbone.device)
        with adapter.content_alone():
            plain = [adapter.config.without(caption) for caption in captions]
            error = _error(backbone, before, noise, timesteps, plain)
        if self.config.style:
            with adapter.style_beside():
                error = error + _error(backbone, after, noise, timesteps, list(captions))
        return error


def _error(backbone: AbstractBackbone, latents: Tensor, noise: Tensor, timesteps: Tensor, prompts: list[str]) -> Tensor:
    """Mean squared denoising error, 0-d."""
    with torch.no_grad():
        told = backbone.encode_prompt(prompts)
    prediction = backbone.predict(backbone.schedule.add_noise(latents, noise, timesteps), timesteps, told)
    target = backbone.schedule.target(latents, noise, timesteps)
    return (prediction.float() - target.float()).square().mean()
