"""Tokens of pictures behind a prompt's own: every cross-attention reads both by the base's keys and values."""

import torch
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.own_maps import texts_pairs
from pcs_ext.image.types import Decoupled


def behind_the_text(backbone: AbstractBackbone, tokens: Tensor, weights: Tensor) -> Decoupled:
    """What the base makes of states that gain tokens at their end, in rows that have some.

    Args:
        backbone: whose text cross-attentions read them.
        tokens: `b m context`, as wide as text states.
        weights: `b`, how much a token counts in the softmax where a word counts 1; 0: the row has none.
    """
    return Decoupled(pairs=texts_pairs(backbone, tokens), joint=weights.to(tokens))


def behind(states: Tensor, tokens: Tensor) -> Tensor:
    """Both in one row: `b n d` and `b m d` -> `b n+m d`, for networks that read nothing but states."""
    return torch.cat([states, tokens], dim=1)
