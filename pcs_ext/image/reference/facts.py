"""What a picture's file tells of the photos that it was drawn beside."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pcs_ext.image.subject import GeneratedImage
from pcs_ext.reporter import Reporter

if TYPE_CHECKING:
    from pcs_ext.image.reference.reference import Reference


def with_facts(
    images: Sequence[GeneratedImage],
    reference: "Reference",
    asked: Mapping[str, str],
    photos: int,
    style: Path | None,
    reporter: Reporter,
) -> list[GeneratedImage]:
    """The images with what they were shown among their facts, and what the adapter answered to their prompts.

    Args:
        images: drawn beside `reference`.
        reference: as `show` made it.
        asked: what the text encoder read -> the prompt that it stands for.
        photos: how many were shown.
        style: the picture whose look was taken.
        reporter: hears the answers.
    """
    seen = reference.opened
    known: dict[str, Any] = {"references": photos, "reference_scale": reference.scale, "reference_adapter": seen.id}
    known |= {"reference_encoder": seen.encoder.id}
    told = {"boxes": _rows(reference.boxes), "turns": _rows(reference.turns), "nouns": list(reference.nouns)}
    known |= {f"reference_{name}": what for name, what in (told | {"maps": list(reference.maps)}).items() if what}
    known |= {"reference_style": style.name} if style is not None else {}
    answers = {asked[text]: said for text, said in seen.adapter.answers.items() if text in asked}
    for text, said in answers.items():
        reporter.event("answer", f"{text!r}: {said}", prompt=text, answer=said)
    said_of = [{"answer": answers[image.prompt]} if image.prompt in answers else {} for image in images]
    return [
        dataclasses.replace(image, facts={**image.facts, **known, **own})
        for image, own in zip(images, said_of, strict=True)
    ]


def _rows(numbers: Tensor | None) -> list[list[float]]:
    return [] if numbers is None else [[round(number, 6) for number in row] for row in numbers.tolist()]
