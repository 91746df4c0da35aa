"""Prompts read like English and name the subject once per `{subject}`."""

import pytest

from pcs_ext.errors import UsageError
from pcs_ext.image.concept import Concept

RARE = Concept(class_noun="dog", mode="rare", token="sks")
LEARNED = Concept(class_noun="owl", mode="learned", token="<rex>", with_noun=False)


@pytest.mark.parametrize(
    ("text", "rare", "learned", "plain"),
    [
        ("photo of {subject} here", "photo of a sks dog here", "photo of a <rex> here", "photo of an owl here"),
        ("my {subject}", "my sks dog", "my <rex>", "my owl"),
        ("a red {subject}", "a red sks dog", "a red <rex>", "a red owl"),
        ("{subject} in snow", "a sks dog in snow", "a <rex> in snow", "an owl in snow"),
        ("pixel art of {subject}", "pixel art of a sks dog", "pixel art of a <rex>", "pixel art of an owl"),
        ("{subject} and {subject}", "a sks dog and a sks dog", "a <rex> and a <rex>", "an owl and an owl"),
    ],
)  # fmt: skip
def test_articles(text: str, rare: str, learned: str, plain: str) -> None:
    assert RARE.prompt(text) == rare
    assert LEARNED.prompt(text) == learned
    assert LEARNED.class_prompt(text) == plain


def test_a_prompt_without_subject_is_refused_with_an_example() -> None:
    with pytest.raises(UsageError, match="does not say where the subject goes.*for example"):
        RARE.prompt("a dog on the beach")


def test_another_placeholder_is_refused_and_named() -> None:
    with pytest.raises(UsageError, match=r"has \{pip\}, \{place\}, which stands for nothing.*write \{subject\}"):
        RARE.prompt("{subject} and {pip} on the {place}")
    assert RARE.prompt("{subject} in snow {2 of 3}") == "a sks dog in snow {2 of 3}"


def test_a_relation_is_read_from_its_other_end() -> None:
    relation = Concept(
        class_noun="thing", mode="learned", token="<r>", with_noun=False, article=False, inverse="<back>"
    )
    assert relation.inverted("cat {subject} stone") == "stone <back> cat"
    assert relation.prompt("stone <back> cat") == "stone <back> cat"
    assert relation.prompt("cat {subject} stone") == "cat <r> stone"
    assert relation.inverted("cat {subject} {subject}") == "cat {subject} {subject}"
    assert LEARNED.inverted("cat {subject} stone") == "cat {subject} stone"
