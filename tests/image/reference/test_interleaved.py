"""Prompts with pictures among their words."""

import pytest

from pcs_ext.errors import UsageError
from pcs_ext.image.reference.interleaved import check_marks, marked, segments, unmarked


@pytest.mark.parametrize(
    ("prompt", "nouns", "behind", "instead"),
    [
        ("a photo of <2> and <1>", ("dog", "cat"), "a photo of <2> and <1>", "a photo of <2> and <1>"),
        ("the dog and a cat", ("dog", "cat"), "the dog <1> and a cat <2>", "the <1> and a <2>"),
        ("a dog", ("dog", "dog"), "a dog <1> <2>", "a <1> <2>"),
        ("a dog on grass", ("dog", ""), "a dog <1> on grass", "a <1> on grass"),
        ("on the beach", ("dog", "cat"), "<1> <2> on the beach", "<1> <2> on the beach"),
        ("on the beach", (), "<1> <2> on the beach", "<1> <2> on the beach"),
        ("", ("dog", ""), "<1>", "<1>"),
    ],
)
def test_pictures_stand_where_marks_or_nouns_say(prompt: str, nouns: tuple[str, ...], behind: str, instead: str):
    assert marked(prompt, nouns, 2) == behind
    assert marked(prompt, nouns, 2, replace=True) == instead


def test_pictures_may_come_first() -> None:
    assert marked("the dog", ("dog", ""), 2, first=True) == "<1> the dog"


def test_a_prompt_is_words_and_pictures_in_order() -> None:
    assert segments("<2> wearing a <1><12>, on <x> grass") == [1, "wearing a", 0, 11, ", on <x> grass"]
    assert segments("words") == ["words"]
    assert segments("") == []


@pytest.mark.parametrize(
    ("prompt", "nouns", "words"),
    [
        ("a photo of <1> on grass", ("dog",), "a photo of dog on grass"),
        ("a photo of the dog <1> on grass", ("dog",), "a photo of the dog on grass"),
        ("<1> <2> on grass", ("dog", "dog"), "dog on grass"),
        ("<1> and <2>", ("dog", "cat"), "dog and cat"),
        ("<1> on grass", (), "on grass"),
        ("two  spaces", ("dog",), "two  spaces"),
    ],
)
def test_words_alone_say_the_noun_once(prompt: str, nouns: tuple[str, ...], words: str) -> None:
    assert unmarked(prompt, nouns) == words


def test_marks_must_be_of_pictures_that_are_shown() -> None:
    check_marks(["<1> and <2>", "none"], 2, reads=True)
    check_marks(["none"], 2, reads=False)
    with pytest.raises(UsageError, match="shows picture 3, and there are 2"):
        check_marks(["<1> and <3>"], 2, reads=True)
    with pytest.raises(UsageError, match="shows picture 0"):
        check_marks(["<0>"], 2, reads=True)
    with pytest.raises(UsageError, match="reads words alone"):
        check_marks(["<1>"], 2, reads=False)
