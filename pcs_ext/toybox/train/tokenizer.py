"""A byte-pair tokenizer in CLIP's format, trained on the world's captions.

Any text encodes: all 256 bytes are tokens, inside a word and at its end. Some short rare words are whole tokens
that no caption uses, so that methods which name a subject by a rare word find one.
"""

import collections
import itertools
import json
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import CLIPTokenizer

from pcs_ext.config_io import atomic_write_text
from pcs_ext.reporter import Reporter
from pcs_ext.toybox.train.data import scenes_of
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.world.captions import caption
from pcs_ext.toybox.world.vocabulary import MOTIONS

MAX_LENGTH = 77
_PIECE = 20_000
"""Captions that are encoded at once."""
_WORD_END = "</w>"
_START, _END = "<|startoftext|>", "<|endoftext|>"
_CONSONANTS, _VOWELS = "bcdfghjklmnpqrstvwxz", "aeiou"
_OTHER_WORDS = (
    "toy figure statue plush animal thing subject style painting drawing picture image small big little "
    "new old two one and or the my your his her this that with without from left right up down next to "
    "near behind wooden metal plastic glass paper stone water fire sun moon sky rain flower garden forest "
    "street kitchen floor wall man woman person child face hand eye hair shirt shoe bag backpack bottle "
    "bowl can candle clock vase chair table lamp bird fish horse cow sheep elephant monkey lion tiger "
    "penguin plane train ship bike truck castle tower bridge"
)


def train_tokenizer(settings: Settings, reporter: Reporter, *, scenes: int = 4000) -> None:
    """Train and save to `models/tokenizer`; the reporter hears of how many words."""
    words: collections.Counter[str] = collections.Counter()
    generator = torch.Generator().manual_seed(0)
    for scene in scenes_of("train", 0, scenes, seed=settings.data_seed):
        words.update(caption(scene, generator).replace(",", " , ").split())
    for word in [*" ".join(MOTIONS).split(), *_OTHER_WORDS.split()]:
        words[word] += 40
    for word in rare_words():
        words[word] += 3
    vocabulary, merges = learn_bpe(words)
    folder = settings.folder / "models" / "tokenizer"
    atomic_write_text(folder / "vocab.json", json.dumps(vocabulary, ensure_ascii=False))
    atomic_write_text(folder / "merges.txt", "\n".join(["#version: 0.2", *(" ".join(pair) for pair in merges)]) + "\n")
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = MAX_LENGTH
    tokenizer.save_pretrained(folder)
    reporter.event("tokenizer", f"{len(vocabulary)} words written")


def token_ids(tokenizer: CLIPTokenizer, captions: Sequence[str], length: int) -> Tensor:
    """Ids `n length` int16 of captions, cut or padded: a million of them in seconds, by all cores."""
    fast = tokenizer.backend_tokenizer
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    table = np.full((len(captions), length), tokenizer.pad_token_id, dtype=np.int16)
    for first in range(0, len(captions), _PIECE):
        piece = fast.encode_batch_fast(list(captions[first : first + _PIECE]), add_special_tokens=False)
        for row, encoding in enumerate(piece, start=first):
            ids = [begin, *encoding.ids[: length - 2], end]
            table[row, : len(ids)] = ids
    return torch.from_numpy(table)


def rare_words() -> list[str]:
    """A hundred pronounceable or not three-letter words without meaning."""
    shapes = [f"{a}{b}{c}" for a, b, c in itertools.product(_CONSONANTS, _CONSONANTS, _CONSONANTS) if a != b]
    shapes += [f"{a}{v}{c}" for a, v, c in itertools.product("qxzvw", _VOWELS, "qxzjk")]
    generator = torch.Generator().manual_seed(7)
    chosen = torch.randperm(len(shapes), generator=generator)[:99].tolist()
    return ["sks", *(shapes[index] for index in chosen)]


def byte_alphabet() -> list[str]:
    """CLIP's stand-ins for the 256 bytes: printable characters for themselves, the others shifted past 255."""
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(len(others))]


def learn_bpe(words: collections.Counter[str]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte-pair merges until every word of the count is one token (Sennrich et al. 2016, algorithm 1).

    Args:
        words: lower-case ASCII words with their counts.

    Returns:
        token -> id with the two special tokens last, and the merges in order.
    """
    split = {word: [*word[:-1], word[-1] + _WORD_END] for word in words}
    merges: list[tuple[str, str]] = []
    while True:
        pairs: collections.Counter[tuple[str, str]] = collections.Counter()
        for word, pieces in split.items():
            for pair in itertools.pairwise(pieces):
                pairs[pair] += words[word]
        if not pairs:
            break
        # Ties are broken by the alphabet, so that the result does not depend on the order of the words.
        best = min(pairs, key=lambda pair: (-pairs[pair], pair))
        merges.append(best)
        for word in split:
            split[word] = _merge(split[word], best)
    alphabet = byte_alphabet()
    tokens = [
        *alphabet,
        *(letter + _WORD_END for letter in alphabet),
        *("".join(pair) for pair in merges),
        _START,
        _END,
    ]
    return {token: index for index, token in enumerate(dict.fromkeys(tokens))}, merges


def _merge(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    index = 0
    while index < len(pieces):
        if tuple(pieces[index : index + 2]) == pair:
            merged.append("".join(pair))
            index += 2
        else:
            merged.append(pieces[index])
            index += 1
    return merged
