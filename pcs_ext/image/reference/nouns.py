"""Where a prompt names a thing: as text, and as tokens."""

import re

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.prompt_programs import read_text


def names(prompt: str, noun: str) -> bool:
    """Whether a prompt has the noun as words of its own, whatever the case."""
    return bool(noun) and _found(prompt, noun) is not None


def renamed(prompt: str, noun: str, words: str) -> str:
    """The prompt with other words in place of the noun where it stands first."""
    match = _found(prompt, noun)
    return prompt if match is None else prompt[: match.start()] + words + prompt[match.end() :]


def behind(prompt: str, noun: str) -> str:
    """What a prompt says behind the noun, where it stands first; nothing, if it does not."""
    match = _found(prompt, noun)
    return "" if match is None else prompt[match.end() :].strip(" ,.")


def repeated(noun: str, times: int) -> str:
    """The noun with its last word so many times: "toy robot", 3 -> "toy robot robot robot"."""
    return " ".join([noun, *[noun.split()[-1]] * (times - 1)])


def noun_positions(backbone: AbstractBackbone, prompt: str, noun: str, times: int = 1) -> list[int]:
    """Where the last token of the noun stands in the padded prompt, and of its repetitions behind it.

    Args:
        backbone: whose first tokenizer counts.
        prompt: with `repeated(noun, times)` in it.
        noun: one or several words.
        times: how often its last word stands there.

    Returns:
        `times` positions; fewer where the prompt is cut off, none where the noun is not in it.
    """
    tokenizer = backbone.tokenizers[0]
    limit = tokenizer.model_max_length
    ids = tokenizer(read_text(backbone, prompt), truncation=True, max_length=limit).input_ids[:-1]
    wanted = tokenizer(noun, add_special_tokens=False).input_ids
    last = len(tokenizer(noun.split()[-1], add_special_tokens=False).input_ids)
    for start in range(len(ids) - len(wanted) + 1):
        if ids[start : start + len(wanted)] == wanted:
            end = start + len(wanted) - 1
            return [place for place in range(end, end + times * last, last) if place < len(ids)]
    return []


def check_named(prompts: list[str], nouns: list[str]) -> None:
    """See that every prompt names what is shown.

    Raises:
        UsageError: one does not; the message names it.
    """
    for prompt in prompts:
        for noun in nouns:
            if not names(prompt, noun):
                raise UsageError(
                    f"the prompt {prompt!r} does not name the {noun} that the reference shows; say it in the prompt, "
                    "or pass the word that does with --reference-noun."
                )


def _found(prompt: str, noun: str) -> re.Match[str] | None:
    return re.search(rf"(?<!\w){re.escape(noun)}(?!\w)", prompt, re.IGNORECASE)
