"""CustomContrast (Chen et al. 2024, arXiv 2409.05606): a subject's words and looks told apart from those of others.

A multimodal feature injector makes words of a noun and a picture, and tokens of several of the image encoder's layers
that stand beside the text. While it learns, words and tokens of one subject are drawn together and those of different
ones apart, and so are, on every scale, the tokens of two pictures of one subject.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

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
from pcs_ext.image.reference.beside import PictureMaps
from pcs_ext.image.reference.contrasting import contrasted
from pcs_ext.image.reference.nouns import renamed
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.projection import Resampler
from pcs_ext.image.reference.query_transformer import QueryTransformer
from pcs_ext.image.reference.shown import Sees, Shown
from pcs_ext.image.reference.words import SeenWords, between, noun_rows
from pcs_ext.image.types import Conditioning, Decoupled


@config
class CustomContrastConfig:
    """A multimodal feature injector and two contrasts. Sizes and weights are ours: the paper's are not known here."""

    kind: Literal["customcontrast"] = "customcontrast"
    """Tag in JSON."""
    words: int = 2
    """That stand before the noun."""
    tokens: int = 4
    """Of every scale, beside the text."""
    width: int = 768
    """Of the query transformer and the resamplers, a multiple of 64."""
    depth: int = 4
    """Blocks of each."""
    heads: int = 12
    """Of the query transformer."""
    compared: int = 256
    """Width of the vectors that are compared."""
    crossmodal_weight: float = 0.01
    """Of words against tokens in the loss (crossmodal semantic contrast)."""
    multiscale_weight: float = 0.01
    """Of tokens against tokens on every scale (multiscale appearance contrast)."""
    temperature: float = 0.07
    """Divides the cosines."""

    def __post_init__(self) -> None:
        counts = (self.words, self.tokens, self.depth, self.heads, self.compared, self.width // 64)
        if min(counts) < 1 or self.width % 64 or self.width % self.heads:
            raise ConfigError("counts must be at least 1, and width a multiple of 64 and of heads.")
        if min(self.crossmodal_weight, self.multiscale_weight) < 0 or self.temperature <= 0:
            raise ConfigError("weights must not be negative, and temperature must be positive.")


class CustomContrast(AbstractReferenceAdapter):
    """The injector and the maps.

    Differs from CustomContrast in that the words are the same in all layers, where the paper has some for each, and
    that cells are not kept from attending to what is around the subject. Its positives are other pictures of the
    subject, as there; negatives are those of the batch.

    Args:
        config: of the adapter.
        reading: of the image encoder.
        maps: of every text cross-attention.
        context: of text states.
        tokens: of token rows.
    """

    sees: Sees = "layers"
    depths = (1 / 3, 2 / 3, 1.0)
    asks_noun = True

    def __init__(
        self, config: CustomContrastConfig, reading: Reading, maps: PictureMaps, context: int, tokens: Sequence[int]
    ) -> None:
        super().__init__()
        self.config, self.width, self.context, self.tokens = config, reading.width, context, list(tokens)
        both = sum(tokens)
        self.former = QueryTransformer(
            config.words, config.width, config.depth, config.heads, text=both, picture=reading.width, made=both
        )
        self.scales = nn.ModuleList(
            Resampler(
                reading.width, context, config.tokens, inner=config.width, attention=config.width, depth=config.depth
            )
            for _ in range(reading.layers)
        )
        self.maps = maps
        self.compare_words = nn.Linear(both, config.compared)
        self.compare_tokens = nn.ModuleList(nn.Linear(context, config.compared) for _ in range(reading.layers))
        self.seen_words = SeenWords(config.words)
        self.inside = (self.seen_words,)

    @classmethod
    def untrained(
        cls, config: CustomContrastConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "CustomContrast":
        """Maps begin as the text's own."""
        maps = PictureMaps.like_the_texts(backbone)
        return cls(config, reading, maps, context_width(backbone), token_widths(backbone))

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("customcontrast", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Words of several pictures are averaged, tokens side by side."""
        named = asked.named
        if not any(named):
            return asked.encoded()
        nouns = self._nouns(asked.backbone, asked.shown)
        words, tokens = self._made(nouns, asked.shown)
        meant = between(asked.backbone, asked.nouns, words.mean(1), self.tokens, min(asked.scale, 1.0))
        with self.seen_words.meaning(meant):
            told = asked.encoded(
                asked.with_words(lambda text, noun: renamed(text, noun, f"{self.seen_words.text} {noun}"))
            )
        beside, counted = tokens.flatten(1, 3), torch.tensor(named, device=tokens.device).to(tokens)
        return told.beside(Decoupled(pairs=self.maps(beside, asked.scale * counted[:, None, None])))

    def _nouns(self, backbone: AbstractBackbone, shown: Shown) -> list[Tensor]:
        """Token rows of what every picture shows, in each text encoder, `b r d`."""
        rows = [[noun_rows(backbone, noun) for noun in own] for own in shown.nouns]
        return [
            torch.stack([torch.stack([n[index] for n in own]) for own in rows]) for index in range(len(self.tokens))
        ]

    def _made(self, nouns: list[Tensor], shown: Shown) -> tuple[Tensor, Tensor]:
        """Words `b r words tokens` and tokens `b r scales tokens context` of every picture."""
        features = shown.to(next(self.parameters())).sight.features
        flat, told = features.flatten(0, 1), torch.cat(nouns, dim=-1).to(features).flatten(0, 1)
        words = self.former(told[:, None], flat[:, -1])
        tokens = torch.stack([scale(flat[:, index]) for index, scale in enumerate(self.scales)], dim=1)
        return words.unflatten(0, features.shape[:2]), tokens.unflatten(0, features.shape[:2])

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `crossmodal` and `multiscale`, of the rows that see pictures."""

        def terms() -> dict[str, Tensor]:
            words, tokens = self._made(self._nouns(backbone, pairs.shown), pairs.shown)
            seen = torch.tensor(pairs.shown.rows)
            subjects = torch.arange(len(seen)) if pairs.subjects is None else pairs.subjects
            subjects = subjects[seen].repeat_interleave(words.shape[1]).to(words.device)
            said = self.compare_words(words[seen].mean(2)).flatten(0, 1)
            pooled = tokens[seen].mean(3)
            looks = [part(pooled[:, :, index]).flatten(0, 1) for index, part in enumerate(self.compare_tokens)]
            crossmodal, multiscale = contrasts(said, looks, subjects, self.config.temperature)
            return {
                "crossmodal": self.config.crossmodal_weight * crossmodal,
                "multiscale": self.config.multiscale_weight * multiscale,
            }

        yield terms


def contrasts(said: Tensor, looks: Sequence[Tensor], subjects: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The crossmodal contrast, both ways, and the mean of the scales' own.

    Args:
        said: vectors of the words, `n d`.
        looks: of the tokens of every scale, `n d` each, the deepest last.
        subjects: `n`: which subject each is of.
        temperature: divides the cosines.
    """
    alike = subjects[:, None] == subjects[None]
    deepest = looks[-1]
    ways = contrasted(said, deepest, alike, temperature), contrasted(deepest, said, alike, temperature)
    scales = [contrasted(look, look, alike, temperature, same=True) for look in looks]
    return torch.stack(ways).mean(), torch.stack(scales).mean()
