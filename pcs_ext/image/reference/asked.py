"""What a reference adapter is asked for: prompts with pictures beside them."""

import dataclasses
from collections.abc import Callable, Sequence

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.prompt_programs import Encode
from pcs_ext.image.reference.nouns import names
from pcs_ext.image.reference.shown import Shown
from pcs_ext.image.types import Conditioning


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """Prompts, the pictures beside each, and how strongly they count."""

    backbone: AbstractBackbone
    """Whose layers the conditioning is for; the adapter is inserted into it."""
    encode: Encode
    """`backbone.encode_prompt`, or it with programs around it."""
    prompts: Sequence[str]
    """`b` texts."""
    shown: Shown
    """The pictures of each."""
    scale: float = 1.0
    """1 as trained."""
    size: tuple[int, int] | None = None
    """Height and width in pixels; None: the base's resolution."""

    @property
    def nouns(self) -> list[str]:
        """Of every row the word for what its first picture shows."""
        return [own[0] for own in self.shown.nouns]

    @property
    def named(self) -> list[bool]:
        """Which rows have a picture, and its noun in their prompt."""
        rows = zip(self.prompts, self.nouns, self.shown.rows, strict=True)
        return [seen and names(text, noun) for text, noun, seen in rows]

    def with_words(self, change: Callable[[str, str], str]) -> list[str]:
        """The prompts, those of `named` rows as `change` makes them of the text and its noun."""
        rows = zip(self.prompts, self.nouns, self.named, strict=True)
        return [change(text, noun) if there else text for text, noun, there in rows]

    def encoded(self, prompts: Sequence[str] | None = None) -> Conditioning:
        """Of other texts, or the prompts' own."""
        return self.encode(self.prompts if prompts is None else prompts, size=self.size)
