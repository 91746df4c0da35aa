"""Rare words that are one token: what DreamBooth names a subject by."""

import dataclasses
from typing import Any

import torch
from torch import Tensor

from pcs_ext.errors import UsageError

_KNOWN_BAD = {"sks": "it names a rifle, which Stable Diffusion knows"}


@dataclasses.dataclass(frozen=True)
class RareToken:
    """A candidate and what the base takes it for."""

    word: str
    token_id: int
    neighbours: tuple[str, ...] = ()
    """Nearest tokens of the embedding table by cosine, nearest first; empty without a table."""


def pick_rare_tokens(
    tokenizer: Any, embedding_table: Tensor | None = None, *, count: int = 10, neighbours: int = 5
) -> list[RareToken]:
    """Short, unpronounceable whole words that are one token, rarest first.

    Byte-pair vocabularies list merges by falling frequency, so a high id is a rare word.

    Args:
        tokenizer: a CLIP tokenizer.
        embedding_table: `n d`, to report neighbours.
        count: how many.
        neighbours: how many per word.

    Raises:
        UsageError: the vocabulary has no such word, or the count is below 1.
    """
    if count < 1:
        raise UsageError(f"--count must be at least 1, got {count}.")
    found = []
    for piece, token_id in sorted(tokenizer.get_vocab().items(), key=lambda item: -item[1]):
        word = piece.removesuffix("</w>")
        if piece.endswith("</w>") and _looks_meaningless(word) and is_single_token(tokenizer, word):
            found.append(RareToken(word, token_id))
            if len(found) == count:
                break
    if not found:
        raise UsageError("the base's vocabulary has no short rare word; name one with --token or use a learned token.")
    if embedding_table is None:
        return found
    return [dataclasses.replace(t, neighbours=_neighbours(t, tokenizer, embedding_table, neighbours)) for t in found]


def is_single_token(tokenizer: Any, word: str) -> bool:
    """Whether the word, standing alone, is exactly one token."""
    return len(tokenizer(word).input_ids) == 3


def check_rare_token(tokenizer: Any, word: str) -> None:
    """Refuse a word that is several tokens, and say which words are not.

    Raises:
        UsageError: with three suggestions.
    """
    if is_single_token(tokenizer, word):
        return
    pieces = len(tokenizer(word).input_ids) - 2
    better = ", ".join(token.word for token in pick_rare_tokens(tokenizer, count=3))
    raise UsageError(
        f"--token {word!r} is {pieces} tokens in this base, expected one; its pieces have meanings of their own. "
        f"Try one of: {better}."
    )


def _looks_meaningless(word: str) -> bool:
    vowels = sum(letter in "aeiouy" for letter in word)
    return word.isascii() and word.isalpha() and 3 <= len(word) <= 4 and vowels == 0 and word not in _KNOWN_BAD


def _neighbours(token: RareToken, tokenizer: Any, table: Tensor, count: int) -> tuple[str, ...]:
    unit = torch.nn.functional.normalize(table.float(), dim=1)
    nearest = (unit @ unit[token.token_id]).topk(count + 1).indices.tolist()
    words = tokenizer.convert_ids_to_tokens([index for index in nearest if index != token.token_id])
    return tuple(word.removesuffix("</w>") for word in words[:count])
