"""A word that looks where the end of the text looks (ViCo, Hao et al. 2023, arXiv 2306.00971)."""

from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.reference import ReferenceAdapter
from pcs_ext.image.terms.base import AbstractTerm, Step


@config
class TiedLookConfig:
    """Squared difference of two maps of the reference picture: the subject's word's and the end of the text's."""

    kind: Literal["tied_look"] = "tied_look"
    """Tag of this term in JSON."""
    weight: float = 5e-4
    """The released code's."""


class TiedLookTerm(AbstractTerm):
    """Mean over cells and rows, of maps divided by their largest value; the end's learns nothing.

    As in the released code the last block's maps count alone.
    """

    name = "tied_look"

    def __init__(self, config: TiedLookConfig) -> None:
        self.config = config

    def __call__(self, step: Step) -> Tensor:
        found = [adapter for adapter in step.adapters.values() if isinstance(adapter, ReferenceAdapter)]
        maps = [adapter.maps for adapter in found if adapter.maps is not None]
        if not maps:
            raise ConfigError("tied_look reads the maps of an adapter of kind reference; the recipe has none.")
        errors = [(largest_one(word) - largest_one(end)).square().mean() for word, end in maps]
        return self.config.weight * torch.stack(errors).sum()


def largest_one(maps: Tensor) -> Tensor:
    """Rows `m n` divided by their largest value."""
    return maps / maps.amax(1, keepdim=True).clamp_min(1e-8)
