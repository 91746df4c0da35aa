"""Weights that stay near the base's own (MVDream, Shi et al. 2023, arXiv 2308.16512, its DreamBooth)."""

from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.full import FullAdapter
from pcs_ext.image.terms.base import AbstractTerm, Step


@config
class DriftConfig:
    """Mean absolute distance of all weights that train to where they began, in place of prior preservation."""

    kind: Literal["drift"] = "drift"
    """Tag of this term in JSON."""
    weight: float = 1.0
    """MVDream: 1."""


class DriftTerm(AbstractTerm):
    """weight * || theta - theta_0 ||_1 / N over the adapters of kind full."""

    name = "drift"

    def __init__(self, config: DriftConfig) -> None:
        self.config = config

    def __call__(self, step: Step) -> Tensor:
        whole = [adapter for adapter in step.adapters.values() if isinstance(adapter, FullAdapter)]
        if not whole:
            raise ConfigError(
                f"a drift is that of whole weights, but none of the adapters {sorted(step.adapters)} is of kind full; "
                "take the term out, or train one."
            )
        pairs = [pair for adapter in whole for pair in adapter.weights_and_base()]
        moved = torch.stack([(trained - base).abs().sum() for trained, base in pairs]).sum()
        return self.config.weight * moved / sum(trained.numel() for trained, _ in pairs)
