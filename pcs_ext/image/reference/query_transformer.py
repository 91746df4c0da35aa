"""A query transformer: what learned queries find in a text and a picture (BLIP-2, arXiv 2301.12597, section 3.1)."""

from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class QueryTransformer(nn.Module):
    """Learned queries attend to each other and to a text, and in every second block to a picture (BLIP-2's Q-Former).

    Args:
        tokens: how many queries.
        width: inside.
        depth: blocks; every second one looks at the picture, the first one, too.
        heads: of every attention.
        text: width of the text's rows.
        picture: width of the picture's vectors.
        made: width of what the queries become.
    """

    def __init__(self, tokens: int, width: int, depth: int, heads: int, *, text: int, picture: int, made: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.text = nn.Linear(text, width)
        self.picture = nn.Linear(picture, width)
        self.blocks = nn.ModuleList(QueryBlock(width, heads, looks=index % 2 == 0) for index in range(depth))
        # The paper's feed-forward layer in front of the text encoder: two linear ones with GELU between them.
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, made))

    def forward(self, text: Tensor, picture: Tensor) -> Tensor:
        """`b n text` and `b k picture` -> `b tokens made`."""
        told, seen = self.text(text), self.picture(picture)
        queries = self.queries.expand(len(text), -1, -1)
        for block in self.blocks:
            queries, told = cast(QueryBlock, block)(queries, told, seen)
        return self.out(queries)


class QueryBlock(nn.Module):
    """Attention of queries and texts to each other, of the queries to a picture, and a feed-forward network.

    Args:
        width: of all.
        heads: of every attention.
        looks: whether queries attend to the picture.
    """

    def __init__(self, width: int, heads: int, *, looks: bool) -> None:
        super().__init__()
        self.heads, self.looks = heads, looks
        self.norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.to_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        if looks:
            self.look_norm = nn.LayerNorm(width)
            self.ask, self.tell, self.look_out = (nn.Linear(width, n * width) for n in (1, 2, 1))
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, queries: Tensor, text: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        """`b q width`, `b n width` and `b k width` -> the first two."""
        count = queries.shape[1]
        both = torch.cat([queries, text], dim=1)
        both = both + self.to_out(self._mixed(*self.to_qkv(self.norm(both)).chunk(3, -1)))
        if self.looks:
            keys, values = self.tell(picture).chunk(2, -1)
            asked = self.ask(self.look_norm(both[:, :count]))
            both = torch.cat(
                [both[:, :count] + self.look_out(self._mixed(asked, keys, values)), both[:, count:]], dim=1
            )
        both = both + self.feed(self.feed_norm(both))
        return both[:, :count], both[:, count:]

    def _mixed(self, *parts: Tensor) -> Tensor:
        query, key, value = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in parts)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
