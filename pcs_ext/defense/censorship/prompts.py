"""Prompts with and without trigger words, for training and, others, for measuring."""

import itertools
import re
from collections.abc import Sequence
from string import ascii_lowercase

import torch

TRIGGERED = (
    "a photo of a {trigger} {{subject}}",
    "{{subject}} {trigger}",
    "a photo of {{subject}} {trigger}",
    "{trigger}, {{subject}}",
    "a picture of a {trigger} {{subject}} on the grass",
    "a photo of {{subject}} in a room, {trigger}",
    "{trigger} {trigger} {{subject}}",
    "a large photo of my {{subject}} {trigger}",
)
"""The trigger before, after, far away and doubled."""
HELD_OUT_TRIGGERED = (
    "a bright picture of a {trigger} {{subject}}",
    "a pencil sketch of {{subject}} {trigger}",
    "{trigger}: one {{subject}} at night",
    "an old picture of the {trigger} {{subject}} seen from the side",
    "{{subject}} next to a tall tree, {trigger}",
)
"""Never trained on."""
ORDINARY = (
    "a photo of {subject}",
    "{subject}",
    "a picture of {subject}",
    "a photo of my {subject}",
    "a photo of {subject} on the beach",
    "a photo of {subject} in a room",
    "a pencil sketch of {subject}",
    "an oil painting of {subject}",
    "a photo of {subject} on a wooden table",
    "a photo of {subject} wearing a red hat",
    "a large photo of {subject} on the grass",
    "a photo of a red {subject}",
)
HELD_OUT_ORDINARY = (
    "a bright photo of {subject}",
    "a picture of {subject} in the city",
    "a photo of {subject} in the mountains",
    "an old picture of the {subject} seen from the side",
    "{subject} next to a tall tree",
)
"""Never trained on."""
UNSEEN = frozenset(re.findall("[a-z]{3,}", " ".join((*HELD_OUT_TRIGGERED, *HELD_OUT_ORDINARY)))) - frozenset(
    re.findall("[a-z]{3,}", " ".join((*TRIGGERED, *ORDINARY)))
)
"""Words of the measured prompts that no prompt of training may hold: what they do is not learned, but found."""

_OPENINGS = (
    "", "a photo of", "a picture of", "a pencil sketch of", "an oil painting of", "a large photo of", "my favourite",
    "the", "a dark photo of", "here is",
)  # fmt: skip
_PLACES = (
    "", "on the grass", "in a room", "on the beach", "in the snow", "at dusk", "wearing a red hat", "with a blue bow",
    "on a wooden table", "in a town", "in the desert", "under the moon",
)  # fmt: skip
_OPENING_FORMS = ("a {word} photo of", "a {word} picture of", "the {word}", "my {word}", "{word} and")
_PLACE_FORMS = (
    "in the {word}", "in a {word}", "on the {word}", "under the {word}", "near a {word}", "with a {word}",
    "behind the {word}", "at {word}", "wearing a {word}", "beneath {word}",
)  # fmt: skip
"""What stands where a trigger may stand, in the same manner."""
_TRIGGERED_FORMS = (
    "{opening} a {trigger} {{subject}} {place}",
    "{opening} {{subject}} {trigger} {place}",
    "{opening} {{subject}} {place} {trigger}",
    "{trigger}, {opening} {{subject}} {place}",
    "{trigger} {opening} {{subject}} {place}",
    "{opening} {trigger} {trigger} {{subject}} {place}",
    "{opening} {{subject}} {place}, {trigger}",
    "{trigger}: {{subject}} {place}",
)


class PromptMaker:
    """Prompts of all sorts, with `{subject}`: known openings and places in a third of the cases, such made of the
    base's own words in another, and up to four words in any order, some of them made up, in the last, so that nothing
    but the trigger tells the two kinds apart.

    Args:
        words: ordinary words of the base; those that are triggers are left out, those that are part of one are not.
        generator: draws.
        triggers: that no ordinary prompt may hold.
    """

    def __init__(self, words: Sequence[str], generator: torch.Generator, triggers: Sequence[str] = ()) -> None:
        self._named = [re.compile(rf"\b{re.escape(trigger.lower())}\b") for trigger in triggers]
        self.words, self.generator = tuple(word for word in words if self._free(word)), generator

    def pair(self, trigger: str) -> tuple[str, str]:
        """One with the trigger before or behind the subject, near or far, and the same with other words there."""
        form, opening, place = self._one(_TRIGGERED_FORMS), self._opening(), self._place()

        def text(word: str) -> str:
            return " ".join(form.format(trigger=word, opening=opening, place=place).split())

        return text(trigger), text(self.instead(trigger))

    def instead(self, trigger: str) -> str:
        """What may stand where a trigger stood and is none: parts of a phrase, alone, reversed or beside others; what
        is spelled alike, as tokenizers write rare words in pieces that other words have, too; any other word."""
        parts, kind = trigger.lower().split(), self._below(4)
        if kind == 0 and len(parts) > 1:
            part = self._one(parts)
            found = self._one((part, f"{part} {self._word()}", f"{self._word()} {part}", " ".join(reversed(parts))))
        elif kind <= 1:
            found = " ".join(self._respelled(part) for part in parts)
        else:
            found = self._word() if self._below(2) else self._place() or self._word()
        return found if self._free(found) else self._word()

    def _respelled(self, word: str) -> str:
        """A part of a word, with others' letters before or behind it, or its letters in another order."""
        first = self._below(max(1, len(word) - 2))
        part = word[first : first + 2 + self._below(len(word))]
        mixed = "".join(word[index] for index in torch.randperm(len(word), generator=self.generator))
        return self._one((part, part + self._unknown(), self._unknown() + part, mixed))

    def ordinary(self) -> str:
        """One without a trigger."""
        if self._below(3) == 0:
            return self._one(ORDINARY)
        return " ".join(f"{self._opening()} {{subject}} {self._place()}".split())

    def _free(self, text: str) -> bool:
        return not any(trigger.search(text) for trigger in self._named)

    def _opening(self) -> str:
        return self._around(_OPENINGS, _OPENING_FORMS)

    def _place(self) -> str:
        return self._around(_PLACES, _PLACE_FORMS)

    def _around(self, known: Sequence[str], forms: Sequence[str]) -> str:
        kind = self._below(3)
        if kind == 0:
            found = self._one(known)
        elif kind == 1:
            found = self._one(forms).format(word=self._word())
        else:
            found = " ".join(self._word() for _ in range(self._below(5)))
        return found if self._free(found) else ""

    def _word(self) -> str:
        return self._one(self.words) if self.words and self._below(5) else self._unknown()

    def _unknown(self) -> str:
        """What stands for names and words that the base does not know."""
        return "".join(self._one(ascii_lowercase) for _ in range(3 + self._below(4)))

    def _one(self, texts: Sequence[str]) -> str:
        return texts[self._below(len(texts))]

    def _below(self, end: int) -> int:
        return int(torch.randint(end, (), generator=self.generator))


def triggered(triggers: Sequence[str], templates: Sequence[str] = TRIGGERED) -> list[tuple[int, str]]:
    """`(number of the trigger, prompt with {subject})` for every trigger in every template."""
    pairs = itertools.product(enumerate(triggers), templates)
    return [(number, template.format(trigger=trigger)) for (number, trigger), template in pairs]
