"""The tokenizer: any text encodes and comes back, rare words are whole."""

import collections
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import CLIPTokenizer

from pcs_ext.reporter import SilentReporter
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.train.tokenizer import MAX_LENGTH, byte_alphabet, learn_bpe, rare_words, train_tokenizer
from pcs_ext.toybox.world.vocabulary import CLASSES, COLORS


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PCS_EXT_CACHE", str(tmp_path_factory.mktemp("cache")))
        train_tokenizer(Settings(), SilentReporter(), scenes=60)
        folder: Path = Settings().folder / "models" / "tokenizer"
        return CLIPTokenizer.from_pretrained(folder)


@given(st.text(min_size=1, max_size=12))
def test_any_text_comes_back(tokenizer: CLIPTokenizer, text: str) -> None:
    text = "".join(letter for letter in text if letter.isprintable() and unicodedata.category(letter)[0] != "C")
    ids = tokenizer(text).input_ids[1:-1]
    assert tokenizer.eos_token_id not in ids  # which is also what an unknown token would be
    expected = unicodedata.normalize("NFC", text).lower()
    assert "".join(str(tokenizer.decode(ids)).split()) == "".join(expected.split())


@pytest.mark.parametrize("word", ["sks", *CLASSES, *COLORS])
def test_words_of_the_world_are_one_token(tokenizer: CLIPTokenizer, word: str) -> None:
    assert len(tokenizer(word).input_ids) == 3


def test_rare_words_are_one_token_and_many(tokenizer: CLIPTokenizer) -> None:
    words = rare_words()
    assert len(set(words)) >= 50
    assert all(len(tokenizer(word).input_ids) == 3 for word in words)
    assert tokenizer.model_max_length == MAX_LENGTH


def test_alphabet_has_every_byte_once() -> None:
    assert len(byte_alphabet()) == len(set(byte_alphabet())) == 256


def test_merges_by_hand() -> None:
    # "ab" occurs 5 times inside "abc" and 4 at the end of "ab": "b" and "b</w>" are different letters.
    vocabulary, merges = learn_bpe(collections.Counter({"abc": 5, "ab": 4}))
    assert merges == [("a", "b"), ("ab", "c</w>"), ("a", "b</w>")]
    assert vocabulary["<|endoftext|>"] == len(vocabulary) - 1
