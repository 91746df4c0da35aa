"""Dialogues as one line: "<1> in the snow | now with a red hat" is what a user says first, and then.

Who knows what was answered may write it, too: "<1> in the snow => a dog in the snow | now with a red hat".
"""

import dataclasses

_NEXT, _ANSWER = "|", "=>"


@dataclasses.dataclass(frozen=True)
class Turn:
    """What a user says, and what is answered."""

    message: str
    answer: str | None
    """None: it is to be found."""


def turns(prompt: str) -> list[Turn]:
    """A dialogue's turns, in order; one at least."""
    found = [part.partition(_ANSWER) for part in prompt.split(_NEXT)]
    return [Turn(message.strip(), answer.strip() if said else None) for message, said, answer in found]


def messages(prompt: str) -> str:
    """What the user says alone."""
    return " ".join(turn.message for turn in turns(prompt) if turn.message)


def written(*told: tuple[str, str]) -> str:
    """Messages and answers as one line, inverse of `turns`; marks of a dialogue in them become spaces."""

    def plain(text: str) -> str:
        return " ".join(text.replace(_NEXT, " ").replace(_ANSWER, " ").split())

    return f" {_NEXT} ".join(f"{plain(message)} {_ANSWER} {plain(answer)}" for message, answer in told)
