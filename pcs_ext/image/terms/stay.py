"""Weights that stay near where they were (HiFi Tuner, Wang et al. 2023, arXiv 2312.00079)."""

from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.full import FullAdapter
from pcs_ext.image.terms.base import AbstractTerm, Step


@config
class StayConfig:
    """weight * || W - W_base ||^2 over all weights of adapters of kind full: no class images are needed."""

    kind: Literal["stay"] = "stay"
    """Tag of this term in JSON."""
    weight: float = 1e-2
    """Of the sum of squares; the pull on a weight that went d is 2 d times this. Ours; the paper's is unknown here."""


class StayTerm(AbstractTerm):
    """The sum of squares, weighted."""

    name = "stay"

    def __init__(self, config: StayConfig) -> None:
        self.config = config

    def __call__(self, step: Step) -> Tensor:
        found = [adapter for adapter in step.adapters.values() if isinstance(adapter, FullAdapter)]
        if not found:
            raise ConfigError("stay is about adapters of kind full; the recipe has none.")
        return self.config.weight * torch.stack([adapter.distance() for adapter in found]).sum()
