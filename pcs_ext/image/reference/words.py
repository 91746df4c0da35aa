"""Words made of pictures: rows of the token table that are different for every prompt of a batch."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pcs_ext.image.adapters.tokens import TokenAdapter
from pcs_ext.image.adapters.vocabulary import Rows, vector_tokens
from pcs_ext.image.backbone import AbstractBackbone

PLACEHOLDER = "<reference>"
"""What prompts hold in place of pictures while they are encoded; users never write it."""


class SeenRows(Rows):
    """Rows that somebody sets before prompts are encoded."""

    def __init__(self, initial: Tensor) -> None:
        super().__init__(initial)
        self.current: Tensor | None = None
        """`b n d`; None: nothing is shown, and no prompt has the words."""

    def forward(self) -> Tensor:
        """`b n d`, or `n d` of zeros."""
        return self.initial if self.current is None else self.current


class SeenWords(TokenAdapter):
    """New words for pictures: `word(1)`, `word(2)` ... as prompts write them, in every text encoder.

    It has no weights: rows come from a network through `meaning`.

    Args:
        count: how many words.
    """

    def __init__(self, count: int) -> None:
        # The first token of a group stands for all of them in prompts; single words are asked for here, so that one is
        # never used.
        super().__init__("reference_words", vector_tokens(PLACEHOLDER, 1 + count))
        self.count = count

    def word(self, number: int) -> str:
        """The word of that number, from 1."""
        assert 1 <= number <= self.count
        return self.tokens[number]

    @property
    def text(self) -> str:
        """All of them, one behind the other."""
        return " ".join(self.tokens[1:])

    @contextlib.contextmanager
    def meaning(self, words: Sequence[Tensor]) -> Iterator[None]:
        """Inside, the words mean this in the prompts that are encoded: `b count d` for each text encoder."""
        held = [rows for rows in self.rows() if isinstance(rows, SeenRows)]
        try:
            for rows, given in zip(held, words, strict=True):
                rows.current = torch.cat([torch.zeros_like(given[:, :1]), given], dim=1).float()
            yield
        finally:
            for rows in held:
                rows.current = None

    def parameters(self) -> dict[str, tuple[nn.Parameter, ...]]:
        return {}

    def state_dict(self) -> dict[str, Tensor]:
        return {}

    def load_state_dict(self, state: Any) -> None:
        assert not state, "words of pictures are not stored"

    def _build(self, backbone: AbstractBackbone, initial: Sequence[Tensor]) -> list[Rows]:
        return [SeenRows(rows) for rows in initial]

    def _initial(self, encoder: nn.Module, tokenizer: Any) -> Tensor:
        return torch.zeros(len(self.tokens), encoder.get_input_embeddings().weight.shape[1])  # type: ignore[operator]


def noun_rows(backbone: AbstractBackbone, noun: str) -> list[Tensor]:
    """The mean of the noun's token rows in each text encoder, `d`, float32: where a word made of a picture of it starts
    from at lower strengths."""
    rows = []
    for tokenizer, encoder in zip(backbone.tokenizers, backbone.text_encoders, strict=True):
        ids = torch.tensor(tokenizer(noun, add_special_tokens=False).input_ids, device=backbone.device)
        rows.append(encoder.get_input_embeddings()(ids).detach().float().mean(0))
    return rows


def between(
    backbone: AbstractBackbone, nouns: Sequence[str], words: Tensor, widths: Sequence[int], scale: float
) -> list[Tensor]:
    """Words of each text encoder, `b n d`: 1 as they were made, at lower strengths nearer to the noun's own row.

    Args:
        backbone: whose words they are.
        nouns: `b`.
        words: `b n d`, of all text encoders side by side.
        widths: of each.
        scale: strength.
    """
    split = list(words.float().split(list(widths), dim=-1))
    if scale == 1:
        return split
    rows = [noun_rows(backbone, noun) for noun in nouns]
    starts = [torch.stack([own[index] for own in rows])[:, None] for index in range(len(split))]
    return [torch.lerp(start.expand_as(part), part, scale) for start, part in zip(starts, split, strict=True)]
