"""Several layers of an image encoder, coarse to fine, as several words."""

from collections.abc import Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import (
    AbstractReferenceAdapter,
    Reading,
    check_context,
    context_width,
    token_widths,
)
from pcs_ext.image.reference.nouns import renamed
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.reference.words import SeenWords, between
from pcs_ext.image.types import Conditioning


class ScaleWords(nn.Module):
    """Class tokens of all layers, each normed, side by side -> a network of two hidden layers for every word.

    Early layers tell colours and lines apart, late ones persons (Face2Diffusion, arXiv 2403.05094, section 3.2, whose
    released networks these are; DreamIdentity, arXiv 2307.00300, has the same idea). Without their dropout, so that a
    training that goes on is the one that was stopped.

    Args:
        reading: of the image encoder.
        words: how many.
        hidden: width inside.
        made: width of a word.
    """

    def __init__(self, reading: Reading, words: int, hidden: int, made: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(reading.width) for _ in range(reading.layers))
        self.words = nn.ModuleList(
            nn.Sequential(
                nn.Linear(reading.layers * reading.width, hidden), nn.LeakyReLU(0.2),
                nn.Linear(hidden, hidden), nn.LeakyReLU(0.2),
                nn.Linear(hidden, made),
            )
            for _ in range(words)
        )  # fmt: skip

    def forward(self, classes: Tensor) -> Tensor:
        """`b l width` -> `b words made`."""
        scales = [norm(classes[:, index]) for index, norm in enumerate(self.norms)]
        joined = torch.cat(scales, dim=-1)
        return torch.stack([word(joined) for word in self.words], dim=1)


class AbstractScaleWordsAdapter(AbstractReferenceAdapter):
    """Words of several layers in the place of the class word; the base stays as it is. Systems differ in their loss.

    Args:
        config: of the adapter, with `kind`, `words` and `hidden`.
        reading: of the image encoder.
        context: width of text states.
        tokens: widths of token rows.
    """

    sees: Sees = "layers"
    depths = (1 / 4, 1 / 2, 3 / 4, 1.0)
    """Four of twelve layers (DreamIdentity's 3, 6, 9 and 12 as recalled; Face2Diffusion's are not in its code)."""
    asks_noun = True

    def __init__(self, config: Any, reading: Reading, context: int, tokens: Sequence[int]) -> None:
        super().__init__()
        self.config, self.width, self.context, self.tokens = config, reading.width, context, list(tokens)
        self.encode = ScaleWords(reading, config.words, config.hidden, sum(tokens))
        self.seen_words = SeenWords(config.words)
        self.inside = (self.seen_words,)

    @classmethod
    def untrained(cls, config: Any, backbone: AbstractBackbone, reading: Reading, seed: int) -> Self:
        """Nothing of it is the base's."""
        return cls(config, reading, context_width(backbone), token_widths(backbone))

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context(self.config.kind, self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Words of several pictures are averaged."""
        if not any(asked.named):
            return asked.encoded()
        words = self.words_of(asked.shown.to(next(self.parameters())).sight.features)
        texts = asked.with_words(lambda text, noun: renamed(text, noun, self.seen_words.text))
        with self.seen_words.meaning(between(asked.backbone, asked.nouns, words, self.tokens, asked.scale)):
            return asked.encoded(texts)

    def words_of(self, features: Tensor) -> Tensor:
        """`b r l k d` -> `b words tokens`."""
        return self.encode(features[..., 0, :].flatten(0, 1)).unflatten(0, features.shape[:2]).mean(1)
