"""Ordinary words of a base, and what they are near to."""

import re
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor

from pcs_ext.image.adapters.layers import original
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.rare_tokens import is_single_token

NOUNS = (  # noqa: SIM905
    "person man woman child dog cat bird horse cow sheep lion tiger bear elephant monkey penguin duck fish car truck "
    "bus bike train boat ship plane rocket house castle tower bridge tree flower mountain chair table lamp clock "
    "bottle bowl mug teapot vase hat shoe shirt backpack camera robot doll food cake fruit"
).split()
"""Things that pictures show: what a subject is compared with. Those that the base knows as one word are used."""


def known_nouns(backbone: AbstractBackbone, *, largest: int) -> list[str]:
    """The nouns that are one token of the base's first encoder, the most frequent `largest` of them."""
    tokenizer = backbone.tokenizers[0]
    ids = {noun: tokenizer(noun).input_ids[1] for noun in NOUNS if is_single_token(tokenizer, noun)}
    return sorted(ids, key=lambda noun: ids[noun])[:largest]


def ordinary_words(backbone: AbstractBackbone, count: int, *, without: Collection[str] = ()) -> list[str]:
    """Lower-case words of three letters or more that are one token, most frequent first.

    Byte-pair vocabularies list merges by falling frequency. Ends of words that are tokens are among them.

    Args:
        backbone: whose first tokenizer is asked.
        count: at most so many.
        without: words to leave out.
    """
    found = []
    for piece, _ in sorted(backbone.tokenizers[0].get_vocab().items(), key=lambda item: item[1]):
        word = piece.removesuffix("</w>")
        if piece.endswith("</w>") and re.fullmatch(r"[a-z]{3,}", word) and word not in without:
            found.append(word)
    return found[:count]


def is_ordinary_word(tokenizer: Any, text: str) -> bool:
    """Whether prompts may hold this without meaning the file: a word of letters that the model knows as one token."""
    return re.fullmatch(r"[A-Za-z]+", text) is not None and is_single_token(tokenizer, text)


def token_table(encoder: Any) -> Tensor:
    """The base's own token table `v d`, float32."""
    return original(encoder.get_input_embeddings()).weight.detach().float().cpu()  # type: ignore[operator,union-attr]


def nearest_words(row: Tensor, table: Tensor, tokenizer: Any, *, count: int = 5) -> list[tuple[str, float]]:
    """Words whose rows have the largest cosine to `row` (`d`), with it."""
    near = torch.nn.functional.cosine_similarity(table, row[None].cpu().float(), dim=-1)
    order: Sequence[int] = near.argsort(descending=True)[: 4 * count].tolist()
    pieces = [(tokenizer.convert_ids_to_tokens(index), float(near[index])) for index in order]
    return [(piece.removesuffix("</w>"), score) for piece, score in pieces if piece is not None][:count]
