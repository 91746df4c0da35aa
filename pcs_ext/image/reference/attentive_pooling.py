"""Attentive pooling: a picture's patches become a fixed number of words (Kosmos-1, arXiv 2302.14045, section 2.2)."""

import torch
from torch import Tensor, nn


class AttentivePooling(nn.Module):
    """Learned queries attend to the patches and to themselves, once (as in Kosmos-G's released code).

    Args:
        picture: width of a patch's vector.
        width: of the words.
        words: how many.
        heads: of the attention.
    """

    def __init__(self, picture: int, width: int, words: int, heads: int) -> None:
        super().__init__()
        self.enter = nn.Linear(picture, width)
        # Of the size of word embeddings, beside which what is found will stand; unit normal in the released code.
        self.queries = nn.Parameter(width**-0.5 * torch.randn(words, width))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, patches: Tensor) -> Tensor:
        """`n k picture` -> `n words width`."""
        queries = self.queries.expand(len(patches), -1, -1)
        told = torch.cat([self.enter(patches), queries], dim=1)
        return self.attention(queries, told, told, need_weights=False)[0]
