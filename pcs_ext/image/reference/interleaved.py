"""Prompts in which pictures stand among the words: "<1> wearing <2> on the beach" shows two, in those places.

`<1>` is the first photo that is shown. Where a prompt has no such marks, a photo stands behind the noun that names it,
or before the prompt if none does.
"""

import re
from collections.abc import Sequence

from pcs_ext.errors import UsageError
from pcs_ext.image.reference.nouns import names, renamed

_MARK = re.compile(r"<(\d+)>")

Segment = str | int
"""Words, or the number of a picture, from 0."""


def has_marks(prompt: str) -> bool:
    """Whether a prompt says where pictures stand."""
    return _MARK.search(prompt) is not None


def marked(prompt: str, nouns: Sequence[str], count: int, *, replace: bool = False, first: bool = False) -> str:
    """The prompt with a mark for every picture; as it is, if it has any.

    Args:
        prompt: what is drawn.
        nouns: by which words it names what each picture shows, "" for no picture; empty: not told.
        count: how many pictures there are, where nouns are not told.
        replace: marks stand in place of nouns, not behind them.
        first: all marks stand before the prompt.
    """
    if has_marks(prompt):
        return prompt
    shown = [index for index, noun in enumerate(nouns) if noun] if nouns else list(range(count))
    for noun in dict.fromkeys(nouns[index] for index in shown if nouns and not first):
        own = [index for index in shown if nouns[index] == noun]
        if names(prompt, noun):
            marks = " ".join(f"<{index + 1}>" for index in own)
            prompt = renamed(prompt, noun, marks if replace else f"{noun} {marks}")
            shown = [index for index in shown if index not in own]
    return " ".join([*(f"<{index + 1}>" for index in shown), prompt]).strip()


def segments(prompt: str) -> list[Segment]:
    """Words and pictures of a prompt with marks, in order."""
    parts = _MARK.split(prompt)
    found = [int(part) - 1 if index % 2 else part.strip() for index, part in enumerate(parts)]
    return [part for part in found if part != ""]


def unmarked(prompt: str, nouns: Sequence[str]) -> str:
    """What is left for who reads words alone: marks become the nouns that the words do not say, or nothing."""
    words = " ".join(_MARK.sub(" ", prompt).split())
    missing = [noun if noun and not names(words, noun) else "" for noun in nouns]

    def said(match: re.Match[str]) -> str:
        index = int(match[1]) - 1
        noun = missing[index] if 0 <= index < len(missing) else ""
        missing[:] = ["" if other == noun else other for other in missing]
        return f" {noun} "

    return " ".join(_MARK.sub(said, prompt).split()) if has_marks(prompt) else prompt


def check_marks(prompts: Sequence[str], count: int, *, reads: bool) -> None:
    """See that every mark is one of a picture, for an adapter that reads them.

    Args:
        prompts: what is drawn.
        count: how many pictures are shown.
        reads: whether the adapter does.

    Raises:
        UsageError: it does not, or there are fewer pictures; the message names the prompt.
    """
    for prompt in filter(has_marks, prompts):
        if not reads:
            raise UsageError(
                f"{prompt!r} shows pictures among its words, and this reference adapter reads words alone; leave out "
                "the marks, or pass an adapter of a system that reads both (kosmos-g) with --reference-adapter."
            )
        wrong = [mark for mark in map(int, _MARK.findall(prompt)) if not 1 <= mark <= count]
        if wrong:
            raise UsageError(
                f"{prompt!r} shows picture {wrong[0]}, and there are {count}; <1> is the first after --reference."
            )
