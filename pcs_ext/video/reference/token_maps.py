"""A second key and value map in every text cross-attention, for tokens that stand for a picture."""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.base import attention_widths, context_width


class TokenMaps(nn.Module):
    """Tokens as wide as text states -> keys and values of every text cross-attention (IP-Adapter, eq. 4).

    Args:
        context: width of the tokens.
        channels: of every attention's keys, by its path.
    """

    def __init__(self, context: int, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.context, self.names = context, {path: path.replace(".", "_") for path in channels}
        self.keys = nn.ModuleDict({n: nn.Linear(context, channels[p], bias=False) for p, n in self.names.items()})
        self.values = nn.ModuleDict({n: nn.Linear(context, channels[p], bias=False) for p, n in self.names.items()})

    @classmethod
    def as_text(cls, backbone: AbstractBackbone) -> "TokenMaps":
        """Maps that begin as the text's own."""
        made = cls(context_width(backbone), attention_widths(backbone))
        with torch.no_grad():
            for path, name in made.names.items():
                attention = backbone.denoiser.get_submodule(path)
                cast(nn.Linear, made.keys[name]).weight.copy_(attention.to_k.weight)
                cast(nn.Linear, made.values[name]).weight.copy_(attention.to_v.weight)
        return made

    def forward(self, tokens: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """`b m context` -> by path, keys and values `b m channels`."""
        return {path: (self.keys[name](tokens), self.values[name](tokens)) for path, name in self.names.items()}
