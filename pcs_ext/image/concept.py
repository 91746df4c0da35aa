"""How prompts name the subject."""

import re
from typing import Literal

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, UsageError

SUBJECT = "{subject}"
_PLACEHOLDER = re.compile(r"\{\w+\}")
OBJECT_TEMPLATES = (
    "a photo of {subject}",
    "a clear photo of {subject}",
    "a close-up photo of {subject}",
    "a photo of {subject} seen from nearby",
    "a bright photo of {subject}",
    "a dark photo of {subject}",
    "a cropped photo of {subject}",
    "a picture of {subject}",
    "a good picture of {subject}",
    "a rendering of {subject}",
    "a photo of one {subject}",
    "a photo of the {subject}",
    "a photo of my {subject}",
    "a small photo of {subject}",
    "a large photo of {subject}",
)
"""Neutral captions for learning an object; which photo shows what else is left unsaid."""
STYLE_TEMPLATES = (
    "a painting in the style of {subject}",
    "a picture in the style of {subject}",
    "a close-up in the style of {subject}",
    "a rendering in the style of {subject}",
    "a drawing in the style of {subject}",
)
"""Captions for learning a style."""
_NOUNS = ("dog", "cat", "car", "house", "tree", "flower", "person", "cup", "chair", "bird", "boat", "bottle")
_DETERMINERS = frozenset(
    "a an the one my your his her its our their this that these those some any each every no".split()  # noqa: SIM905
)
_PREPOSITIONS = frozenset(
    "of in on at with by from to and or like as for near beside behind under over wearing".split()  # noqa: SIM905
)


@config
class Concept:
    """The words for one subject. Prompts are written with `{subject}`; `prompt` puts the words in."""

    class_noun: str
    """What the subject is: "dog"."""
    mode: Literal["plain", "rare", "learned"]
    """`plain`: the noun alone; `rare`: a rare word before the noun; `learned`: a token that is trained."""
    token: str = ""
    """The rare word ("sks") or the placeholder ("<rex>"); empty picks a rare word when the base is known."""
    with_noun: bool = True
    """Learned tokens only: whether the noun follows ("<rex> dog" or "<rex>")."""
    initializer: str = ""
    """Learned tokens only: the word the vector starts at."""
    templates: tuple[str, ...] = ("a photo of {subject}",)
    """Captions for training; one is drawn per photo and step."""
    parts: tuple[str, ...] = ()
    """Learned tokens of several subjects that are seen together, in the order of their masks; empty: there is one.
    `{subject}` stands for all of them; prompts may also write one of them as it is."""
    aspects: tuple[str, ...] = ()
    """Learned tokens for aspects of the subject, such as its style: prompts may write one of them instead of all."""
    negative: str = ""
    """A second learned token, for the negative prompt (DreamArtist); empty: there is none."""
    inverse: str = ""
    """Learned word for a relation read from its other end: captions "cat {subject} stone" are half of the time "stone
    <inverse> cat" (Inv-ReVersion); empty: there is none."""
    article: bool = True
    """Whether an article is put before the subject's words; relations ("cat <R> box") have none."""

    def __post_init__(self) -> None:
        if self.parts and (self.mode != "learned" or len(set(self.parts)) < max(2, len(self.parts))):
            raise ConfigError(f"parts are two or more different learned tokens, got {list(self.parts)} ({self.mode}).")

    @property
    def name(self) -> str:
        """The subject's words without an article: "sks dog", "<rex>", "<rex> and a <mug>"."""
        if self.parts:
            return " and a ".join(self.parts)
        if self.mode == "plain" or not self.token:
            return self.class_noun
        return f"{self.token} {self.class_noun}" if self.mode == "rare" or self.with_noun else self.token

    def prompt(self, text: str) -> str:
        """`text` with the subject's words in place of `{subject}`.

        An article is put before them unless a determiner stands there: "a photo of {subject}" becomes "a photo of a
        sks dog", "my {subject}" becomes "my sks dog". A text that names one of several parts, or one of several learned
        tokens, as it is stays as it is: "a red <object>".

        Raises:
            UsageError: there is no `{subject}` in the text, or another `{word}`, which nothing would be put in for.
        """
        unknown = sorted(set(_PLACEHOLDER.findall(text)) - {SUBJECT})
        if unknown:
            raise UsageError(
                f"prompt {text!r} has {', '.join(unknown)}, which stands for nothing here; "
                f"write {SUBJECT} where the subject goes, and everything else as words."
            )
        if SUBJECT not in text and any(word in text for word in self.own_words):
            return text
        return fill(text, self.name, article=self.article)

    @property
    def own_words(self) -> tuple[str, ...]:
        """Learned words that texts may write as they are, in place of `{subject}`: those of several."""
        tokens = self.token.split() if self.mode == "learned" else []
        return (*self.parts, *self.aspects, *(tokens if len(tokens) > 1 else ()), *filter(None, [self.inverse]))

    def inverted(self, text: str) -> str:
        """A caption with its two things exchanged around the inverse word, where `{subject}` stands between them."""
        before, found, after = text.partition(SUBJECT)
        if not (self.inverse and found) or SUBJECT in after:
            return text
        return " ".join(part for part in (after.strip(" ,."), self.inverse, before.strip(" ,.")) if part)

    def negative_prompt(self, text: str = "") -> str:
        """What guidance goes away from: the learned negative word, if there is one, and `text`."""
        return ", ".join(part for part in (self.negative, text) if part)

    def caption(self, text: str, parts: tuple[str, ...]) -> str:
        """`text` about some of the parts."""
        return fill(text, " and a ".join(parts))

    def class_prompt(self, text: str) -> str:
        """`text` with the plain noun in place of `{subject}`: what the base is asked without the subject."""
        return fill(text, self.class_noun, article=self.article)


def neutral_captions() -> list[str]:
    """180 captions about nothing in particular: what a text encoder usually has before it."""
    return [fill(template, noun) for template in OBJECT_TEMPLATES for noun in _NOUNS]


def fill(text: str, name: str, *, article: bool = True) -> str:
    """`text` with "a NAME" (or "an", or no article after a determiner) in place of every `{subject}`.

    Without `article`, the name alone is put there.

    Raises:
        UsageError: no `{subject}`.
    """
    if SUBJECT not in text:
        raise UsageError(
            f"prompt {text!r} does not say where the subject goes; write {SUBJECT} there, "
            'for example "a photo of {subject} on the beach".'
        )
    if not article:
        return text.replace(SUBJECT, name)
    pieces = text.split(SUBJECT)
    result = pieces[0]
    for piece in pieces[1:]:
        result += name if _has_determiner(result) else f"{_article(name)} {name}"
        result += piece
    return result


def _has_determiner(before: str) -> bool:
    """Whether the noun phrase already has its article: in the last three words, adjectives in between allowed."""
    words = re.findall(r"[\w'<>-]+|[^\w\s]", before.lower())
    if not words:
        return False
    last = words[-1]
    if last in _DETERMINERS or last.endswith("'s"):
        return True
    # "a red {subject}": an article two or three words back, and nothing but adjective-like words between.
    for distance in (2, 3):
        if len(words) >= distance and words[-distance] in ("a", "an", "the", "my", "your"):
            between = words[-distance + 1 :]
            return not any(word in _PREPOSITIONS or not word.isalnum() for word in between) and between != ["photo"]
    return False


def _article(name: str) -> str:
    first = name.lstrip("<").lower()[:1]
    return "an" if first in "aeiou" and not name.startswith("<") else "a"
