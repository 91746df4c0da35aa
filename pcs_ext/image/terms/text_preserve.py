"""A tuned text encoder that leaves everything but the subject's noun as it was (Cones 2, arXiv 2305.19327)."""

from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.residual import ResidualAdapter
from pcs_ext.image.terms.base import AbstractTerm, Step


@config
class TextPreserveConfig:
    """Distance of encoded positions around the noun to what the untrained encoder makes of them."""

    kind: Literal["text_preserve"] = "text_preserve"
    """Tag of this term in JSON."""
    before: float = 1e-2
    """Weight of the positions before the noun; the released code's."""
    after: float = 1e-3
    """Weight of those behind it, padding included; the released code's."""


class TextPreserveTerm(AbstractTerm):
    """before * |difference before the noun| + after * |difference behind it|, Euclidean norms, mean over captions."""

    name = "text_preserve"

    def __init__(self, config: TextPreserveConfig) -> None:
        self.config = config

    def __call__(self, step: Step) -> Tensor:
        tuned = [adapter for adapter in step.adapters.values() if isinstance(adapter, ResidualAdapter)]
        if not tuned:
            raise ConfigError("text_preserve is about an adapter of kind residual; the recipe has none.")
        states, captions = step.conditioning.states.float(), step.batch.captions
        losses: list[Tensor] = []
        for adapter in tuned:
            before = adapter.states_before(captions)
            for row, caption in enumerate(captions):
                at = adapter.positions(caption)
                if at:
                    losses.append(preservation(states[row], before[row], at, self.config))
        return torch.stack(losses).mean() if losses else states.new_zeros(())


def preservation(states: Tensor, before: Tensor, at: list[int], config: TextPreserveConfig) -> Tensor:
    """The term of one caption, 0-d.

    Args:
        states, before: `n d`, as encoded now and by the untrained encoder.
        at: the noun's positions, at least one, in order.
        config: the weights.
    """
    moved = states - before
    front, back = moved[: at[0]], moved[at[-1] + 1 :]
    return config.before * torch.linalg.vector_norm(front) + config.after * torch.linalg.vector_norm(back)
