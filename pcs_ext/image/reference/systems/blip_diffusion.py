"""BLIP-Diffusion (Li et al. 2023, arXiv 2305.14720): a noun and a picture become a soft prompt.

A query transformer reads the noun and the picture's patches and makes words of them, which end the prompt: "a photo of
a robot on the beach, the robot is W1 ... W16". Text encoder and denoiser are trained with it.
"""

from collections.abc import Sequence
from typing import Literal, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import FullAdapter, FullConfig
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import (
    AbstractReferenceAdapter,
    Reading,
    check_context,
    context_width,
    token_widths,
)
from pcs_ext.image.reference.shown import Sees, Shown
from pcs_ext.image.reference.words import SeenWords, noun_rows
from pcs_ext.image.types import Conditioning


@config
class BlipDiffusionConfig:
    """A query transformer, and the weights that learn with it."""

    kind: Literal["blip-diffusion"] = "blip-diffusion"
    """Tag in JSON."""
    tokens: int = 16
    """Words that the queries become (section 3.1)."""
    width: int = 768
    """Of the query transformer: that of BERT-base, which BLIP-2's has (arXiv 2301.12597)."""
    depth: int = 12
    """Its blocks, likewise; every second one looks at the picture."""
    heads: int = 12
    """Of every attention, likewise."""
    text_encoder: bool = True
    """Whether the text encoder learns, too, as in the paper; without it the folder is that much smaller."""

    def __post_init__(self) -> None:
        if min(self.tokens, self.depth, self.heads) < 1 or self.width < 1 or self.width % self.heads:
            raise ConfigError(
                "tokens, depth and heads must be at least 1, and width a multiple of heads, got "
                f"{self.tokens}, {self.depth}, {self.heads} and {self.width}."
            )


class QueryTransformer(nn.Module):
    """Learned queries attend to each other and to a text, and in every second block to a picture (BLIP-2's Q-Former).

    Args:
        config: of the adapter.
        text: width of the text's rows.
        picture: width of the picture's vectors.
        made: width of what the queries become.
    """

    def __init__(self, config: BlipDiffusionConfig, text: int, picture: int, made: int) -> None:
        super().__init__()
        width = config.width
        self.queries = nn.Parameter(0.02 * torch.randn(1, config.tokens, width))
        self.text = nn.Linear(text, width)
        self.picture = nn.Linear(picture, width)
        self.blocks = nn.ModuleList(_Block(width, config.heads, looks=index % 2 == 0) for index in range(config.depth))
        # The paper's feed-forward layer in front of the text encoder: two linear ones with GELU between them.
        self.out = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, made))

    def forward(self, text: Tensor, picture: Tensor) -> Tensor:
        """`b n text` and `b k picture` -> `b tokens made`."""
        told, seen = self.text(text), self.picture(picture)
        queries = self.queries.expand(len(text), -1, -1)
        for block in self.blocks:
            queries, told = cast(_Block, block)(queries, told, seen)
        return self.out(queries)


class _Block(nn.Module):
    def __init__(self, width: int, heads: int, *, looks: bool) -> None:
        super().__init__()
        self.heads, self.looks = heads, looks
        self.norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.to_qkv, self.to_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        if looks:
            self.look_norm = nn.LayerNorm(width)
            self.ask, self.tell, self.look_out = (nn.Linear(width, n * width) for n in (1, 2, 1))
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, queries: Tensor, text: Tensor, picture: Tensor) -> tuple[Tensor, Tensor]:
        count = queries.shape[1]
        both = torch.cat([queries, text], dim=1)
        both = both + self.to_out(self._mixed(*self.to_qkv(self.norm(both)).chunk(3, -1)))
        if self.looks:
            keys, values = self.tell(picture).chunk(2, -1)
            asked = self.ask(self.look_norm(both[:, :count]))
            both = torch.cat(
                [both[:, :count] + self.look_out(self._mixed(asked, keys, values)), both[:, count:]], dim=1
            )
        both = both + self.feed(self.feed_norm(both))
        return both[:, :count], both[:, count:]

    def _mixed(self, *parts: Tensor) -> Tensor:
        query, key, value = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in parts)
        return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)


class BlipDiffusion(AbstractReferenceAdapter):
    """The query transformer, and the weights of text encoder and denoiser.

    Differs from BLIP-Diffusion in that the query transformer begins untrained, without BLIP-2's weights and the stage
    that aligns it with text, and in that another picture of the subject is shown, where the paper pastes the subject of
    the target onto another background. Words of several pictures are averaged.

    Args:
        config: of the adapter.
        width: of the image encoder's patches.
        context: of text states.
        tokens: of token rows.
    """

    sees: Sees = "patches"
    asks_noun = True

    def __init__(self, config: BlipDiffusionConfig, width: int, context: int, tokens: Sequence[int]) -> None:
        super().__init__()
        self.config, self.width, self.context, self.tokens = config, width, context, list(tokens)
        self.former = QueryTransformer(config, sum(tokens), width, sum(tokens))
        self.seen_words = SeenWords(config.tokens)
        names_ = ("text_encoder", "text_encoder_2")[: len(self.tokens)] if config.text_encoder else ()
        self.inside = (FullAdapter("reference", FullConfig(components=("denoiser", *names_))), self.seen_words)

    @classmethod
    def untrained(
        cls, config: BlipDiffusionConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "BlipDiffusion":
        """Text encoder and denoiser are the base's."""
        return cls(config, reading.width, context_width(backbone), token_widths(backbone))

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("blip-diffusion", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. A prompt too long for its words loses the last of them."""
        if not any(asked.named):
            return asked.encoded()
        words = " ".join(self.seen_words.word(number) for number in range(1, 1 + self.config.tokens))
        texts = asked.with_words(lambda text, noun: f"{text}, the {noun} is {words}")
        with self.seen_words.meaning(self._words(asked.backbone, asked.shown, asked.scale)):
            return asked.encoded(texts)

    def _words(self, backbone: AbstractBackbone, shown: Shown, scale: float) -> list[Tensor]:
        """`b tokens d` of each text encoder; at lower strengths nearer to the noun's own row."""
        features = shown.to(next(self.parameters())).sight.features
        rows = [noun_rows(backbone, own[0]) for own in shown.nouns]
        nouns = [torch.stack([row[index] for row in rows])[:, None] for index in range(len(self.tokens))]
        asked = torch.cat(nouns, dim=-1).to(features).repeat_interleave(features.shape[1], 0)
        made = self.former(asked, features.flatten(0, 1)).unflatten(0, features.shape[:2]).mean(1)
        split = made.float().split(self.tokens, dim=-1)
        return [
            torch.lerp(noun.expand_as(part), part, min(scale, 1.0)) for noun, part in zip(nouns, split, strict=True)
        ]
