"""What a reference adapter is asked for: prompts with pictures beside them."""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.prompt_programs import Encode
from pcs_ext.image.reference.nouns import names, noun_positions
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

    @property
    def present(self) -> Tensor:
        """`b r` bool: which pictures are seen, and named by their row's prompt."""
        rows = zip(self.prompts, self.shown.nouns, self.shown.rows, strict=True)
        found = [[seen and names(text, noun) for noun in own] for text, own, seen in rows]
        return torch.tensor(found, device=self.backbone.device)

    @property
    def seen(self) -> Tensor:
        """`b` bool: rows that see their pictures."""
        return torch.tensor(self.shown.rows, device=self.backbone.device)

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of latent cells."""
        height, width = self.size or (self.backbone.resolution, self.backbone.resolution)
        return height // self.backbone.vae_factor, width // self.backbone.vae_factor

    def noun_states(self) -> Tensor:
        """Of every picture the encoded noun, the state of its last token, `b r d`; the first state of an empty prompt,
        where there is none."""
        nouns = [noun for own in self.shown.nouns for noun in own]
        different = list(dict.fromkeys(nouns))
        states = self.encode(different).states
        last = [(noun_positions(self.backbone, noun, noun) if noun else [0])[0] for noun in different]
        rows = torch.tensor([different.index(noun) for noun in nouns], device=states.device)
        chosen = states[rows, torch.tensor(last, device=states.device)[rows]]
        return chosen.unflatten(0, (len(self.prompts), -1))

    def noun_gate(self, picture: int) -> Tensor:
        """`b n`: 1 at the last token of the noun of every row's picture of that number, for `Decoupled.gate`."""
        gate = torch.zeros(len(self.prompts), self.backbone.tokenizers[0].model_max_length, device=self.backbone.device)
        for row, (text, own) in enumerate(zip(self.prompts, self.shown.nouns, strict=True)):
            found = noun_positions(self.backbone, text, own[picture])[:1] if own[picture] else []
            gate[row, found] = 1
        return gate

    def with_words(self, change: Callable[[str, str], str]) -> list[str]:
        """The prompts, those of `named` rows as `change` makes them of the text and its noun."""
        rows = zip(self.prompts, self.nouns, self.named, strict=True)
        return [change(text, noun) if there else text for text, noun, there in rows]

    def encoded(self, prompts: Sequence[str] | None = None) -> Conditioning:
        """Of other texts, or the prompts' own."""
        return self.encode(self.prompts if prompts is None else prompts, size=self.size)
