"""AlignerNet: from a language model's states to a text encoder's, and back (Kosmos-G, arXiv 2310.02992)."""

import torch
from torch import Tensor, nn


class Aligner(nn.Module):
    """States of any number become those that a text encoder would give (M).

    A transformer reads the states; learned queries, as many as the text encoder has places, attend to what it makes of
    them and to each other, block after block.

    Args:
        source: width of the language model's states.
        target: width of the text encoder's.
        places: how many of these.
        width: inside.
        depth: blocks of either part.
        heads: of their attentions.
    """

    def __init__(self, source: int, target: int, places: int, *, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.enter = nn.Linear(source, width)
        self.reads = nn.ModuleList(_reading(width, heads) for _ in range(depth))
        self.read = nn.LayerNorm(width)
        self.queries = nn.Parameter(torch.randn(places, width))
        self.asks = nn.ModuleList(_asking(width, heads) for _ in range(depth))
        self.asked = nn.LayerNorm(width)
        self.out = nn.Linear(width, target)

    def forward(self, states: Tensor, there: Tensor) -> Tensor:
        """`b n source`, and which are there, `b n` bool -> `b places target`."""
        told = self.enter(states) + positions(states.shape[1], self.queries)
        for block in self.reads:
            told = block(told, src_key_padding_mask=~there)
        told = self.read(told)
        made = self.queries.expand(len(states), -1, -1)
        for block in self.asks:
            made = block(made, told, memory_key_padding_mask=~there)
        return self.out(self.asked(made))


class InverseAligner(nn.Module):
    """What an aligner made becomes the states it was made of (N), so that nothing they hold is lost.

    Args:
        target: width of what aligners make.
        source: of the language model's states.
        width: inside.
        depth: blocks of either part.
        heads: of their attentions.
    """

    def __init__(self, target: int, source: int, *, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.enter = nn.Linear(target, width)
        self.query = nn.Parameter(torch.randn(width))
        self.asks = nn.ModuleList(_asking(width, heads) for _ in range(depth))
        self.reads = nn.ModuleList(_reading(width, heads) for _ in range(depth))
        self.read = nn.LayerNorm(width)
        self.out = nn.Linear(width, source)

    def forward(self, made: Tensor, there: Tensor) -> Tensor:
        """`b places target`, and which states are asked for, `b n` bool -> `b n source`."""
        told = self.enter(made)
        states = (self.query + positions(there.shape[1], self.query)).expand(len(made), -1, -1)
        for block in self.asks:
            states = block(states, told, tgt_key_padding_mask=~there)
        for block in self.reads:
            states = block(states, src_key_padding_mask=~there)
        return self.out(self.read(states))


def align_losses(made: Tensor, target: Tensor, again: Tensor, states: Tensor, there: Tensor) -> tuple[Tensor, Tensor]:
    """How far what an aligner made is from a text encoder's states, and the way back from where it began, 0-d each.

    Both are means of squares. Of the way back every prompt's is weighed by how many states the text encoder has for
    each of its own, as in the released code, where a batch is weighed by its longest.

    Args:
        made: `b m d`.
        target: `b m d`.
        again: `b n e`, of the way back.
        states: `b n e`, that the aligner read.
        there: `b n` bool.
    """
    aligned = (made.float() - target.float()).square().mean()
    lengths = there.sum(1)
    errors = ((again.float() - states.float()).square().mean(-1) * there).sum(1) / lengths
    return aligned, (errors * made.shape[1] / lengths).mean()


def positions(count: int, like: Tensor) -> Tensor:
    """Sines and cosines of places, `count width` (arXiv 1706.03762, section 3.5)."""
    width = like.shape[-1]
    half = (width + 1) // 2
    rates = 10_000 ** (-torch.arange(half, device=like.device) / half)
    angles = torch.arange(count, device=like.device)[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], dim=1)[:, :width].to(like)


def _reading(width: int, heads: int) -> nn.Module:
    return nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )  # fmt: skip


def _asking(width: int, heads: int) -> nn.Module:
    return nn.TransformerDecoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    )  # fmt: skip
