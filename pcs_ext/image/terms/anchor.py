"""Learned words that stay near other words."""

from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.tokens import initial_rows
from pcs_ext.image.adapters.vocabulary import ExtendedTokenizer, TokenRows
from pcs_ext.image.terms.base import AbstractTerm, Step


@config
class AnchorConfig:
    """Squared distance of every learned row to where it began, or to given words."""

    kind: Literal["anchor"] = "anchor"
    """Tag of this term in JSON."""
    words: tuple[str, ...] = ()
    """Words whose rows are averaged; empty: where the row began."""
    adapters: tuple[str, ...] = ()
    """Whose rows are held, by name; empty: those of all with words."""
    weight: float = 1e-5
    """Cross Initialization's (arXiv 2312.15905)."""


class AnchorTerm(AbstractTerm):
    """|| row - anchor ||^2, summed over the row, averaged over rows and text encoders."""

    name = "anchor"

    def __init__(self, config: AnchorConfig) -> None:
        self.config = config

    def __call__(self, step: Step) -> Tensor:
        distances: list[Tensor] = []
        for name, adapter in step.words().items():
            if self.config.adapters and name not in self.config.adapters:
                continue
            for index, rows in enumerate(adapter.rows()):
                if isinstance(rows, TokenRows):
                    distances.append((rows.weight - self._anchor(step, index, rows.initial)).square().sum(-1))
        if not distances:
            raise ConfigError(
                f"an anchor holds rows of adapters of kind embedding; of {sorted(step.words())} none is one that "
                f"{list(self.config.adapters) or 'it'} names."
            )
        return self.config.weight * torch.cat(distances).mean()

    def _anchor(self, step: Step, index: int, initial: Tensor) -> Tensor:
        if not self.config.words:
            return initial
        tokenizer = step.backbone.tokenizers[index]
        assert isinstance(tokenizer, ExtendedTokenizer)
        encoder = step.backbone.text_encoders[index]
        rows = [initial_rows(encoder, tokenizer.base, word, count=1, noise=0, seed=0) for word in self.config.words]
        return torch.cat(rows).mean(0).to(initial.device)
