"""Prompt sets: complete, well formed, and judged in words the world knows."""

import pytest

from pcs_ext.errors import UsageError
from pcs_ext.image.evaluate.prompts import PROMPT_SETS, UNRELATED_PROMPTS, Prompt, prompt_set, read_prompts
from pcs_ext.toybox.world import vocabulary


@pytest.mark.parametrize(("name", "size"), [("toybox", 20), ("object", 25), ("live", 25)])
def test_each_set_names_the_subject_once_per_prompt_and_repeats_nothing(name, size):
    texts = [prompt.text for prompt in prompt_set(name)]
    assert len(set(texts)) == len(texts) == size
    assert all(text.count("{subject}") == 1 for text in texts)
    assert not any("{subject}" in text for text in UNRELATED_PROMPTS[name])


def test_toybox_expectations_are_words_of_the_world():
    words = {
        "context": vocabulary.CONTEXTS,
        "accessory": vocabulary.ACCESSORIES,
        "style": vocabulary.STYLES,
        "view": vocabulary.VIEWS,
    }
    for prompt in PROMPT_SETS["toybox"]:
        assert list(prompt.expected) == [prompt.kind]
        assert prompt.expected[prompt.kind] in words[prompt.kind]
        assert prompt.expected[prompt.kind] in prompt.text


def test_the_class_word_gets_its_article():
    prompt = Prompt(text="a photo of {subject} on the beach", kind="context")
    assert prompt.with_class_word("dog") == "a photo of a dog on the beach"
    assert prompt.with_class_word("owl") == "a photo of an owl on the beach"


def test_an_unknown_set_names_the_known_ones():
    with pytest.raises(UsageError, match="'faces' is unknown; expected one of toybox, object, live"):
        prompt_set("faces")


def test_a_mark_that_editors_put_in_front_is_no_part_of_a_prompt(tmp_path):
    (tmp_path / "prompts.txt").write_text("# mine\na photo of {subject}\n", encoding="utf-8-sig")
    assert [prompt.text for prompt in read_prompts(tmp_path / "prompts.txt")] == ["a photo of {subject}"]
