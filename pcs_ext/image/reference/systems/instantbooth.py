"""InstantBooth (Shi et al. 2023, arXiv 2304.03411): a word for what pictures show, and layers that read their patches.

The word stands before the class word ("a photo of a V person"); it is made of the pictures' embeddings, averaged.
Between self- and cross-attention of every block of the denoiser a gated layer attends to its own cells and the
pictures' patches. The base stays as it is.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import (
    Reading,
    block_widths,
    check_context,
    context_width,
    token_widths,
)
from pcs_ext.image.reference.gated_adapter import AbstractGatedAdapter
from pcs_ext.image.reference.inside import beside
from pcs_ext.image.reference.nouns import renamed
from pcs_ext.image.reference.shown import Sees, Shown
from pcs_ext.image.reference.words import SeenWords, noun_rows
from pcs_ext.image.types import Conditioning


@config
class InstantBoothConfig:
    """A word, and gated layers."""

    kind: Literal["instantbooth"] = "instantbooth"
    """Tag in JSON."""
    heads: int = 8
    """Of the gated layers' attention (as recalled of GLIGEN, arXiv 2301.07093, whose layers these are)."""
    balance: float = 0.3
    """Strength of the gated layers in use, beta of eq. 6; 1 in training. Lower ones heed the prompt more. Ours: the
    paper's value is not known here."""
    renormalise: bool = True
    """In use, bring the word to the length of the class word's token (section 3.5, whose factor is not known here; a
    word longer than its neighbours drowns them)."""

    def __post_init__(self) -> None:
        if self.heads < 1 or self.balance < 0:
            raise ConfigError(f"heads must be at least 1 and balance not negative, got {self.heads}, {self.balance}.")


class InstantBooth(AbstractGatedAdapter):
    """The maps to a word and to patches' vectors, and the gated layers.

    Differs from InstantBooth, which also trains its two copies of the image encoder: here one stays as it is, and the
    last layer's class token is the embedding. Another picture of the subject is shown than the one that is drawn, in
    place of the same picture moved and turned; around the subject it is black, as in the paper, where masks are known.

    Args:
        config: of the adapter.
        width: of the image encoder's vectors.
        widths: of the denoiser's blocks with cross-attention, by their paths.
        context: of text states.
        tokens: of token rows.
    """

    sees: Sees = "layers"
    depths = (1.0,)
    cuts = True
    asks_noun = True
    patches_name = "reference_patches"

    def __init__(
        self, config: InstantBoothConfig, width: int, widths: dict[str, int], context: int, tokens: Sequence[int]
    ) -> None:
        super().__init__()
        self.config, self.width, self.context, self.tokens = config, width, context, list(tokens)
        self.concept = nn.Linear(width, sum(tokens))
        self.begin_gates(widths, width, config.heads)
        self.seen_words = SeenWords(1)
        self.inside = (self.seen_words,)

    @classmethod
    def untrained(
        cls, config: InstantBoothConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "InstantBooth":
        """Its gates are shut."""
        return cls(config, reading.width, block_widths(backbone), context_width(backbone), token_widths(backbone))

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("instantbooth", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Words of several pictures are averaged, patches side by side."""
        if not any(asked.named):
            return asked.encoded()
        features = asked.shown.to(next(self.parameters())).sight.object[:, :, 0]
        words = self._words(asked.backbone, features, asked.shown, asked.scale)
        texts = asked.with_words(lambda text, noun: renamed(text, noun, f"{self.seen_words.word(1)} {noun}"))
        with self.seen_words.meaning(words):
            told = asked.encoded(texts)
        strength = asked.scale * (1.0 if self.training else self.config.balance)
        counted = strength * torch.tensor(asked.named, device=features.device)
        return beside(told, self.patches_name, features.flatten(1, 2), counted)

    def _words(self, backbone: AbstractBackbone, features: Tensor, shown: Shown, scale: float) -> list[Tensor]:
        """The word in each text encoder, `b 1 d`; at lower strengths nearer to the class word's token."""
        made = self.concept(features[:, :, 0].mean(1)).float().split(self.tokens, dim=-1)
        if self.training:
            return [part[:, None] for part in made]
        nouns = [noun_rows(backbone, own[0]) for own in shown.nouns]
        words = []
        for index, part in enumerate(made):
            noun = torch.stack([rows[index] for rows in nouns])
            if self.config.renormalise:
                part = F.normalize(part, dim=-1) * noun.norm(dim=-1, keepdim=True)
            words.append(torch.lerp(noun, part, min(scale, 1.0))[:, None])
        return words
