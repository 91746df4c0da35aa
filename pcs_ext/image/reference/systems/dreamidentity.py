"""DreamIdentity (Chen et al. 2023, arXiv 2307.00300): class tokens of several layers become several words.

The words stand in the place of the class word. The base stays as it is. What keeps them fit for editing is the data:
pictures of one identity, of which another is drawn than the one that is shown, each under its own prompt.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import (
    AbstractReferenceAdapter,
    Reading,
    Terms,
    check_context,
    context_width,
    token_widths,
)
from pcs_ext.image.reference.nouns import renamed
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.scales import ScaleWords
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.reference.words import SeenWords, between
from pcs_ext.image.types import Conditioning


@config
class DreamIdentityConfig:
    """An encoder of several layers to several words."""

    kind: Literal["dreamidentity"] = "dreamidentity"
    """Tag in JSON."""
    words: int = 2
    """That the class tokens become (as recalled)."""
    hidden: int = 1024
    """Width inside the networks; ours."""
    word_weight: float = 0.01
    """Of the words' squared length in the loss; that of E4T (arXiv 2302.12228), as this paper's was not to be had."""

    def __post_init__(self) -> None:
        if min(self.words, self.hidden) < 1 or self.word_weight < 0:
            raise ConfigError(
                "words and hidden must be at least 1 and word_weight not negative, got "
                f"{self.words}, {self.hidden} and {self.word_weight}."
            )


class DreamIdentity(AbstractReferenceAdapter):
    """A network for every word, which reads the class tokens of all layers.

    Differs from DreamIdentity in that the image encoder is any frozen one, where the paper has a ViT of its own trained
    to tell faces apart, and in that its pairs need not be drawn by the base from celebrities' names (though they may
    be: `reference invent`).

    Args:
        config: of the adapter.
        reading: of the image encoder.
        context: width of text states.
        tokens: widths of token rows.
    """

    sees: Sees = "layers"
    depths = (1 / 4, 1 / 2, 3 / 4, 1.0)
    """Layers 3, 6, 9 and 12 of 12 (as recalled)."""
    asks_noun = True

    def __init__(self, config: DreamIdentityConfig, reading: Reading, context: int, tokens: Sequence[int]) -> None:
        super().__init__()
        self.config, self.width, self.context, self.tokens = config, reading.width, context, list(tokens)
        self.encode = ScaleWords(reading, config.words, config.hidden, sum(tokens))
        self.seen_words = SeenWords(config.words)
        self.inside = (self.seen_words,)

    @classmethod
    def untrained(
        cls, config: DreamIdentityConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "DreamIdentity":
        """Nothing of it is the base's."""
        return cls(config, reading, context_width(backbone), token_widths(backbone))

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("dreamidentity", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Words of several pictures are averaged."""
        if not any(asked.named):
            return asked.encoded()
        words = self._words(asked.shown.to(next(self.parameters())).sight.features)
        texts = asked.with_words(lambda text, noun: renamed(text, noun, self.seen_words.text))
        with self.seen_words.meaning(between(asked.backbone, asked.nouns, words, self.tokens, asked.scale)):
            return asked.encoded(texts)

    def _words(self, features: Tensor) -> Tensor:
        """`b r l k d` -> `b words tokens`."""
        return self.encode(features[..., 0, :].flatten(0, 1)).unflatten(0, features.shape[:2]).mean(1)

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `words`, their squared length, a mean over words and pictures."""

        def terms() -> dict[str, Tensor]:
            words = self._words(pairs.shown.to(next(self.parameters())).sight.features)
            return {"words": self.config.word_weight * words.square().sum(-1).mean()}

        yield terms
