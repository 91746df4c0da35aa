"""Prompts with and without trigger words, for training and, others, for measuring."""

import itertools
from collections.abc import Sequence

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
)
"""Never trained on."""


def triggered(triggers: Sequence[str], templates: Sequence[str] = TRIGGERED) -> list[tuple[int, str]]:
    """`(number of the trigger, prompt with {subject})` for every trigger in every template."""
    pairs = itertools.product(enumerate(triggers), templates)
    return [(number, template.format(trigger=trigger)) for (number, trigger), template in pairs]
