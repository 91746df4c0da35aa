"""A picture's patches -> numbers for every layer of a base, by a decoder that refines what it said before."""

import torch
from torch import Tensor, nn


class WeightDecoder(nn.Module):
    """theta_k = T(f, theta_{k-1}): each layer's numbers are a token, and tokens look at each other and at the picture.

    (HyperDreamBooth, arXiv 2307.06949, section 4.2.) The last map begins at zero, so that theta begins as theta_0.

    Args:
        layers: L, how many layers of the base.
        numbers: S, of each.
        picture: width of patches.
        width: of tokens.
        depth: blocks.
        heads: of their attentions.
    """

    def __init__(self, layers: int, numbers: int, picture: int, *, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.told = nn.Linear(picture, width)
        self.enter = nn.Linear(numbers, width)
        self.places = nn.Parameter(0.02 * torch.randn(layers, width))
        self.blocks = nn.ModuleList(
            nn.TransformerDecoderLayer(
                width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(depth)
        )
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, numbers)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, patches: Tensor, start: Tensor, iterations: int) -> Tensor:
        """`b k picture`, theta_0 `L S` and how often -> theta `b L S`."""
        told = self.told(patches)
        theta = start.to(told).expand(len(patches), -1, -1)
        for _ in range(iterations):
            tokens = self.enter(theta) + self.places
            for block in self.blocks:
                tokens = block(tokens, told)
            theta = theta + self.out(self.norm(tokens))
        return theta
