"""Learned words that do not say the same (MATTE, Agarwal et al. 2023, arXiv 2311.11919)."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.vocabulary import TokenRows
from pcs_ext.image.terms.base import AbstractTerm, Step


@config
class ApartConfig:
    """Squared cosine of the rows of pairs of words."""

    kind: Literal["apart"] = "apart"
    """Tag of this term in JSON."""
    pairs: tuple[tuple[str, str], ...]
    """Names of embedding adapters that shall differ."""
    weight: float = 1e-2
    """Of the mean over pairs and text encoders; ours."""


class ApartTerm(AbstractTerm):
    """0 where the rows are orthogonal, the weight where they point the same way. Several rows count by their mean."""

    name = "apart"

    def __init__(self, config: ApartConfig) -> None:
        self.config = config

    def __call__(self, step: Step) -> Tensor:
        words = step.words()
        unknown = {name for pair in self.config.pairs for name in pair} - words.keys()
        if unknown or not self.config.pairs:
            raise ConfigError(f"apart names pairs of {sorted(words)}; got {self.config.pairs}.")
        cosines: list[Tensor] = []
        for first, second in self.config.pairs:
            for one, other in zip(words[first].rows(), words[second].rows(), strict=True):
                if not isinstance(one, TokenRows) or not isinstance(other, TokenRows):
                    raise ConfigError(
                        f"apart compares rows of adapters of kind embedding; {first} or {second} is none."
                    )
                cosines.append(F.cosine_similarity(one.weight.mean(0), other.weight.mean(0), dim=0))
        return self.config.weight * torch.stack(cosines).square().mean()
