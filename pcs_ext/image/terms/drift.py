"""Weights that stay near the base's own, instead of prior preservation: no class images are needed."""

from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.full import FullAdapter
from pcs_ext.image.terms.base import AbstractTerm, Step


@config
class DriftConfig:
    """How far all weights of adapters of kind full have gone from where they began."""

    kind: Literal["drift"] = "drift"
    """Tag of this term in JSON."""
    weight: float = 1.0
    """MVDream: 1, of the mean."""
    measure: Literal["mean_absolute", "sum_of_squares"] = "mean_absolute"
    """|| theta - theta_0 ||_1 / N (MVDream, Shi et al. 2023, arXiv 2308.16512, its DreamBooth), which pulls all weights
    alike; or || theta - theta_0 ||^2 (HiFi Tuner, Wang et al. 2023, arXiv 2312.00079), which pulls far ones more."""


class DriftTerm(AbstractTerm):
    """The distance, weighted."""

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
        moves = [trained - base for adapter in whole for trained, base in adapter.weights_and_base()]
        if self.config.measure == "sum_of_squares":
            return self.config.weight * torch.stack([move.square().sum() for move in moves]).sum()
        moved = torch.stack([move.abs().sum() for move in moves]).sum()
        return self.config.weight * moved / sum(move.numel() for move in moves)
