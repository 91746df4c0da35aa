"""UMM-Diffusion (Ma et al. 2023, arXiv 2303.09319): words and a picture read by one encoder, two predictions mixed.

The picture's embedding becomes a pseudo word in the class word's place, and the text encoder reads both together. In
use what the denoiser predicts for that and what it predicts for the words alone are mixed, so that what the picture has
besides the subject counts less.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import (
    AbstractReferenceAdapter,
    Reading,
    check_context,
    context_width,
    token_widths,
)
from pcs_ext.image.reference.inside import answering
from pcs_ext.image.reference.nouns import renamed
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.reference.words import SeenWords, between
from pcs_ext.image.reference.words_alone import WORDS, placed_back, with_words_alone, words_alone
from pcs_ext.image.types import Conditioning


@config
class UMMDiffusionConfig:
    """A pseudo word, and how much of the words alone is mixed in."""

    kind: Literal["umm-diffusion"] = "umm-diffusion"
    """Tag in JSON."""
    hidden: int = 1024
    """Width inside the map to the word. Ours."""
    fusion: float = 0.7
    """Share of the prediction for words and picture, in use; the rest is that for the words alone. Ours: the paper's is
    not known here."""

    def __post_init__(self) -> None:
        if self.hidden < 1 or not 0 < self.fusion <= 1:
            raise ConfigError(f"hidden must be at least 1 and fusion in (0, 1], got {self.hidden} and {self.fusion}.")


class UMMDiffusion(AbstractReferenceAdapter):
    """The map to the word. The text encoder and the denoiser are the base's.

    Differs from UMM-Diffusion in that another picture of the subject is shown than the one that is drawn.

    Args:
        config: of the adapter.
        width: of the image encoder's embedding.
        context: of text states.
        tokens: of token rows.
    """

    sees: Sees = "embedding"
    asks_noun = True

    def __init__(self, config: UMMDiffusionConfig, width: int, context: int, tokens: Sequence[int]) -> None:
        super().__init__()
        self.config, self.width, self.context, self.tokens = config, width, context, list(tokens)
        self.map = nn.Sequential(
            nn.Linear(width, config.hidden), nn.LayerNorm(config.hidden), nn.LeakyReLU(),
            nn.Linear(config.hidden, sum(tokens)),
        )  # fmt: skip
        self.seen_words = SeenWords(1)
        self.inside = (self.seen_words,)

    @classmethod
    def untrained(
        cls, config: UMMDiffusionConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "UMMDiffusion":
        """Nothing of it is the base's."""
        return cls(config, reading.width, context_width(backbone), token_widths(backbone))

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("umm-diffusion", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Words of several pictures are averaged.

        In use what it returns also holds the states of the words alone, for the mixing inside `inserted`.
        """
        named = asked.named
        if not any(named):
            return asked.encoded()
        embeddings = asked.shown.to(next(self.parameters())).sight.features
        word = self.map(embeddings).mean(1, keepdim=True)
        words = between(asked.backbone, asked.nouns, word, self.tokens, min(asked.scale, 1.0))
        with self.seen_words.meaning(words):
            texts = asked.with_words(lambda text, noun: renamed(text, noun, self.seen_words.word(1)))
            told = asked.encoded(texts)
        if self.training or self.config.fusion == 1:
            return told
        return with_words_alone(told, asked.encoded(), torch.tensor(named, device=told.states.device).float())

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: predictions are mixed there."""
        with super().inserted(backbone, scale), answering(backbone, WORDS, self._mixed):
            yield

    def _mixed(self, predict: Predict, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """fusion times the prediction for both, the rest that for the words alone, in rows that have a picture."""
        answer = predict(noisy_latents, timesteps, conditioning)
        words = words_alone(conditioning)
        if words is None:
            return answer
        rows, some = words
        at = rows.to(noisy_latents.device)
        alone = predict(noisy_latents[at], timesteps.expand(len(noisy_latents))[at], some)
        return placed_back(answer, rows, torch.lerp(alone, answer[at], self.config.fusion))
