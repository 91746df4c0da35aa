"""Key and value maps for pictures in every text cross-attention (IP-Adapter, arXiv 2308.06721, section 3.2.2)."""

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor, nn

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.base import attention_widths, context_width


class PictureMaps(nn.Module):
    """A second key and a second value map in every text cross-attention.

    Args:
        context: width of the tokens that are mapped.
        channels: of every text cross-attention, by its path.
    """

    def __init__(self, context: int, channels: Mapping[str, int]) -> None:
        super().__init__()
        self.names = {path: path.replace(".", "_") for path in channels}
        self.keys = nn.ModuleDict({n: nn.Linear(context, channels[p], bias=False) for p, n in self.names.items()})
        self.values = nn.ModuleDict({n: nn.Linear(context, channels[p], bias=False) for p, n in self.names.items()})

    @classmethod
    def like_the_texts(cls, backbone: AbstractBackbone) -> Self:
        """Maps of tokens as wide as text states, which begin as the base's own."""
        made = cls(context_width(backbone), attention_widths(backbone))
        with torch.no_grad():
            for path, name in made.names.items():
                attention = backbone.denoiser.get_submodule(path)
                made.keys[name].weight.copy_(attention.to_k.weight)  # type: ignore[union-attr, operator]
                made.values[name].weight.copy_(attention.to_v.weight)  # type: ignore[union-attr, operator]
        return made

    def forward(self, tokens: Tensor, strength: Tensor | float = 1.0) -> dict[str, tuple[Tensor, Tensor]]:
        """Keys and values of `b m context` by path, as `Decoupled` has them; values times `strength`, `b m 1` or one
        number."""
        return {
            path: (self.keys[name](tokens), strength * self.values[name](tokens)) for path, name in self.names.items()
        }
