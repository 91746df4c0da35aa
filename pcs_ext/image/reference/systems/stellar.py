"""StellarNet, the baseline of Stellar (Achlioptas et al. 2023, arXiv 2312.06116): a word told by a photo, for SDXL.

After ELITE, an image encoder's embedding of the person alone becomes the word S* of every text encoder of the base
(*dynamic textual inversion*), and low-rank weights in the denoiser learn with it. Nothing is tuned to a person. The
benchmark's scores are in `pcs_ext.image.evaluate.stellar`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import LowRankAdapter, LowRankConfig
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
from pcs_ext.image.reference.shown import Sees, Sight
from pcs_ext.image.reference.words import SeenWords, between
from pcs_ext.image.types import Conditioning


@config
class StellarNetConfig:
    """A mapper to a word, and low-rank weights. Sizes are ours: the paper's were not to be had."""

    kind: Literal["stellar"] = "stellar"
    """Tag in JSON."""
    hidden: int = 1024
    """Width inside the mapper; ELITE's."""
    rank: int = 64
    """Of the weights in the base's attention."""
    word_weight: float = 0.01
    """Of the mean absolute value of the word (ELITE, arXiv 2302.13848, section 3.1)."""

    def __post_init__(self) -> None:
        if min(self.hidden, self.rank) < 1 or self.word_weight < 0:
            raise ConfigError("hidden and rank must be at least 1 and word_weight not negative.")


class StellarNet(AbstractReferenceAdapter):
    """The mapper and the low-rank weights.

    Differs from StellarNet in that it reads the image encoder's embedding, where which features are read there is not
    known here; in that the word stands in any class word's place; in that masks come with the photos; and in that
    another photo of the subject is shown than the one that is drawn.

    Args:
        config: of the adapter.
        width: of the image encoder's embedding.
        context: of text states.
        tokens: widths of token rows, of every text encoder.
        seed: of the low-rank weights.
    """

    sees: Sees = "embedding"
    cuts = True
    asks_noun = True
    asks_masks = True

    def __init__(
        self, config: StellarNetConfig, width: int, context: int, tokens: Sequence[int], seed: int = 0
    ) -> None:
        super().__init__()
        self.config, self.width, self.context, self.tokens = config, width, context, list(tokens)
        self.mapper = nn.Sequential(
            nn.Linear(width, config.hidden), nn.LayerNorm(config.hidden), nn.LeakyReLU(),
            nn.Linear(config.hidden, config.hidden), nn.LayerNorm(config.hidden), nn.LeakyReLU(),
            nn.Linear(config.hidden, sum(tokens)),
        )  # fmt: skip
        self.seen_words = SeenWords(1)
        self.inside = (
            self.seen_words, LowRankAdapter("reference", LowRankConfig(rank=config.rank, init_seed=seed)),
        )  # fmt: skip

    @classmethod
    def untrained(
        cls, config: StellarNetConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "StellarNet":
        """Its low-rank weights change nothing yet."""
        return cls(config, reading.width, context_width(backbone), token_widths(backbone), seed)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("stellar", self.context, backbone)

    def word_of(self, sight: Sight) -> Tensor:
        """The word of every row, `b 1 tokens`, of all text encoders side by side: the mean over its pictures."""
        like = next(self.parameters())
        return self.mapper(sight.object.to(like)).mean(1, keepdim=True)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. The word stands in the class word's place."""
        if not any(asked.named):
            return asked.encoded()
        words = between(asked.backbone, asked.nouns, self.word_of(asked.shown.sight), self.tokens, asked.scale)
        texts = asked.with_words(lambda text, noun: renamed(text, noun, self.seen_words.word(1)))
        with self.seen_words.meaning(words):
            return asked.encoded(texts)

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `words`, the mean of their absolute values."""
        yield lambda: {"words": self.config.word_weight * self.word_of(pairs.shown.sight).abs().mean()}
