"""Meanings of a word that stay apart (DreamDistribution, Zhao et al. 2023, arXiv 2312.14216)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.distribution import DistributionAdapter
from pcs_ext.image.terms.base import AbstractTerm, Step


@config
class DiversityConfig:
    """Squared cosine between the encoded prompts of every two meanings."""

    kind: Literal["diversity"] = "diversity"
    """Tag of this term in JSON."""
    weight: float = 1e-3
    """The released code's."""


class DiversityTerm(AbstractTerm):
    """Mean over all ordered pairs of the squared cosine of the states at the prompts' end marks."""

    name = "diversity"

    def __init__(self, config: DiversityConfig) -> None:
        self.config = config

    def __call__(self, step: Step) -> Tensor:
        losses: list[Tensor] = []
        for adapter in step.adapters.values():
            if isinstance(adapter, DistributionAdapter):
                assert adapter.recent is not None, "the batch's captions were encoded in this pass"
                prompt, states = adapter.recent
                losses.append(mean_squared_cosine(states[:, _end(step, prompt)]))
        if not losses:
            raise ConfigError("diversity is about adapters of kind distribution; the recipe has none.")
        return self.config.weight * torch.stack(losses).sum()


def mean_squared_cosine(vectors: Tensor) -> Tensor:
    """Over all ordered pairs of two different of the `k d` vectors, 0-d."""
    unit = F.normalize(vectors.float(), dim=-1)
    cosines = unit @ unit.T
    others = cosines.square().sum() - cosines.diagonal().square().sum()
    return others / (len(vectors) * (len(vectors) - 1))


def _end(step: Step, prompt: str) -> int:
    """Position of the end mark; all meanings have as many tokens."""
    tokenizer = step.backbone.tokenizers[0]
    return min(len(tokenizer(prompt).input_ids), tokenizer.model_max_length) - 1
