"""Prompts that a learned subject is judged on: what to write, and what an image of it must then show."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pcs_ext.errors import UsageError
from pcs_ext.image.concept import SUBJECT, fill

PromptKind = Literal["context", "accessory", "style", "view", "action", "property", "other"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt of a set."""

    text: str
    """With `{subject}` where the subject goes."""
    kind: PromptKind
    """What the prompt asks to change."""
    expected: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Attributes an image must show (`context`, `accessory`, `style`, `view`), in an attribute reader's words; empty
    where no reader can judge."""

    def with_class_word(self, noun: str) -> str:
        """The prompt with a plain class noun in place of the subject: what CLIP-T is measured against.

        Scoring against the placeholder instead, as some published tables do, measures the token's strangeness.
        """
        return fill(self.text, noun)


def _toybox(kind: PromptKind, value: str, *, style: str = "a photo of", view: str = "") -> Prompt:
    phrase = value if kind in ("context", "accessory") else ""
    text = " ".join(part for part in (style, "{subject}", phrase) if part) + (f", {view}" if view else "")
    return Prompt(text=text, kind=kind, expected={kind: value})


_TOYBOX = (
    *[
        _toybox("context", context)
        for context in (
            "on the beach",
            "in the snow",
            "on the grass",
            "in the desert",
            "at night",
            "in a room",
            "on a wooden table",
            "in the city",
            "under water",
            "in the mountains",
        )
    ],
    _toybox("accessory", "wearing a red hat"),
    _toybox("accessory", "wearing a party cone"),
    _toybox("accessory", "wearing a crown"),
    _toybox("accessory", "wearing a blue scarf"),
    *[
        _toybox("style", style, style=style)
        for style in ("a pencil sketch of", "pixel art of", "an oil painting of", "flat vector art of")
    ],
    *[_toybox("view", view, view=view) for view in ("side view", "overhead view")],
)

# Twenty changes of place and setting, then five of the thing itself: the proportions of DreamBooth's own list for
# objects (Ruiz et al. 2023, section 4.1), in this project's words.
_OBJECT = (
    *[
        Prompt(text=text, kind="context")
        for text in (
            "a photo of {subject} on a pebble beach at low tide",
            "a photo of {subject} half buried in fresh snow",
            "a photo of {subject} on a mossy rock beside a stream",
            "a photo of {subject} in a field of sunflowers",
            "a photo of {subject} on a cobbled street after rain",
            "a photo of {subject} on a wooden kitchen table",
            "a photo of {subject} on a library shelf among old books",
            "a photo of {subject} in front of a red brick wall",
            "a photo of {subject} on the hood of a vintage car",
            "a photo of {subject} floating in a swimming pool",
            "a photo of {subject} on a windowsill with a city at night behind it",
            "a photo of {subject} on a picnic blanket in a park",
            "a photo of {subject} in a desert with dunes in the distance",
            "a photo of {subject} with a snowy mountain range behind it",
            "a photo of {subject} with the Colosseum behind it",
            "a photo of {subject} on a white marble pedestal in a museum",
            "a photo of {subject} in autumn leaves",
            "a photo of {subject} under water beside a coral reef",
            "a photo of {subject} held in an open hand",
            "a photo of {subject} lit by a campfire in a dark forest",
        )
    ],
    Prompt(text="a photo of {subject} made of clear glass", kind="property"),
    Prompt(text="a photo of {subject} painted bright purple", kind="property"),
    Prompt(text="a photo of {subject} covered in gold leaf", kind="property"),
    Prompt(text="a photo of {subject} knitted from wool", kind="property"),
    Prompt(text="a photo of {subject} in the shape of a cube", kind="property"),
)

# Ten places, ten things to wear, five changes of the animal itself: the proportions of the list for live subjects.
_LIVE = (
    *[
        Prompt(text=text, kind="context")
        for text in (
            "a photo of {subject} running along a beach at sunset",
            "a photo of {subject} in deep snow",
            "a photo of {subject} asleep on a blue sofa",
            "a photo of {subject} in a meadow of wild flowers",
            "a photo of {subject} on a busy shopping street",
            "a photo of {subject} looking out of a train window",
            "a photo of {subject} on a wooden jetty by a lake",
            "a photo of {subject} in a pine forest in fog",
            "a photo of {subject} with the Eiffel Tower behind it",
            "a photo of {subject} swimming under water",
        )
    ],
    *[
        Prompt(text=text, kind="accessory")
        for text in (
            "a photo of {subject} wearing a straw hat",
            "a photo of {subject} wearing a yellow raincoat",
            "a photo of {subject} wearing round glasses",
            "a photo of {subject} wearing a knitted green scarf",
            "a photo of {subject} wearing a bow tie",
            "a photo of {subject} wearing a firefighter's helmet",
            "a photo of {subject} wearing a wizard's cape",
            "a photo of {subject} wearing a flower garland",
            "a photo of {subject} wearing a red bandana",
            "a photo of {subject} wearing a tiny backpack",
        )
    ],
    Prompt(text="a watercolour painting of {subject}", kind="style"),
    Prompt(text="a charcoal drawing of {subject}", kind="style"),
    Prompt(text="a bronze statue of {subject}", kind="property"),
    Prompt(text="a photo of {subject} jumping over a puddle", kind="action"),
    Prompt(text="a photo of {subject} seen from behind", kind="view"),
)

PROMPT_SETS: Mapping[str, tuple[Prompt, ...]] = {"toybox": _TOYBOX, "object": _OBJECT, "live": _LIVE}
"""By name: `toybox` (20, with expected attributes), `object` (25) and `live` (25) for real bases."""

UNRELATED_PROMPTS: Mapping[str, tuple[str, ...]] = {
    "toybox": (
        "a photo of a red car on the beach",
        "a photo of a blue teapot on a wooden table",
        "a photo of a green house in the mountains",
        "a photo of a yellow boat under water",
        "a pencil sketch of a white rocket",
        "a photo of a purple mug in a room",
    ),
    "object": (
        "a photo of a bicycle leaning on a wall",
        "a photo of a bowl of fruit on a table",
        "a portrait of an old fisherman",
        "a photo of a lighthouse in a storm",
        "an oil painting of a harbour",
        "a photo of a cat on a chair",
    ),
    "live": (
        "a photo of a horse in a field",
        "a photo of a bowl of fruit on a table",
        "a portrait of an old fisherman",
        "a photo of a lighthouse in a storm",
        "an oil painting of a harbour",
        "a photo of a red sports car",
    ),
}
"""Prompts that do not name the subject, for drift: what a learned subject should leave as it was."""


def prompt_set(name: str) -> tuple[Prompt, ...]:
    """The prompts of a set.

    Raises:
        UsageError: no set of that name.
    """
    if name not in PROMPT_SETS:
        raise UsageError(f"prompt set {name!r} is unknown; expected one of {', '.join(PROMPT_SETS)}.")
    return PROMPT_SETS[name]


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """Prompts of one's own: a text file with one per line, empty lines and those that begin with # left out.

    Raises:
        UsageError: the file is missing, no text or empty, or a line has no `{subject}`.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except (OSError, UnicodeDecodeError):
        raise UsageError(
            f"prompts {str(path)!r} are neither one of {', '.join(PROMPT_SETS)} nor a text file that can be read."
        ) from None
    texts = [line for line in lines if line and not line.startswith("#")]
    nameless = [text for text in texts if SUBJECT not in text]
    if not texts or nameless:
        got = f"got {nameless[0]!r}" if texts else "there is none"
        raise UsageError(f"{path} must hold a prompt with {SUBJECT} on every line, {got}.")
    return tuple(Prompt(text=text, kind="other") for text in texts)
