"""Learned queries that read vectors by standing beside them in a transformer."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class QueryEncoder(nn.Module):
    """What becomes of learned queries in a transformer over them and some vectors (StyleCrafter, section 3.2).

    Args:
        width: of queries and vectors.
        count: of queries.
        depth: blocks.
        heads: of their attention; as many as divide the width, at most.
    """

    def __init__(self, width: int, count: int, *, depth: int, heads: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, count, width) / width**0.5)
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        fitting = next(number for number in range(heads, 0, -1) if width % number == 0)
        self.blocks = nn.ModuleList(_Block(width, fitting) for _ in range(depth))

    def forward(self, vectors: Tensor) -> Tensor:
        """`b n width` -> `b count width`."""
        states = self.norm_in(torch.cat([self.queries.expand(len(vectors), -1, -1), vectors], dim=1))
        for block in self.blocks:
            states = cast(_Block, block)(states)
        return self.norm_out(states[:, : self.queries.shape[1]])


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.to_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, states: Tensor) -> Tensor:
        asked, told, found = (
            x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in self.to_qkv(self.norm(states)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(asked, told, found)
        states = states + self.to_out(mixed.transpose(1, 2).flatten(2))
        return states + self.feed(self.feed_norm(states))
