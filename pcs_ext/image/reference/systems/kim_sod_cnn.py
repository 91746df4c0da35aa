"""Kim et al. 2023 (Electronics 12(22), 4707): the subject alone, as a word and as local features of a convolution.

What is around the subject is taken out. The picture's embedding becomes a word before the class word, and a small
convolutional network over the patches of the subject gives tokens of its details beside the text.
"""

import math
from collections.abc import Sequence
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
    check_context,
    context_width,
    token_widths,
)
from pcs_ext.image.reference.beside import PictureMaps
from pcs_ext.image.reference.nouns import renamed
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.reference.words import SeenWords, between
from pcs_ext.image.types import Conditioning, Decoupled


@config
class KimSodCnnConfig:
    """A word and local features. Sizes are ours: the paper's are not known here."""

    kind: Literal["kim-sod-cnn"] = "kim-sod-cnn"
    """Tag in JSON."""
    hidden: int = 512
    """Width inside both networks."""

    def __post_init__(self) -> None:
        if self.hidden < 1:
            raise ConfigError(f"hidden must be at least 1, got {self.hidden}.")


class LocalFeatures(nn.Module):
    """Two 3 x 3 convolutions over the grid of a picture's patches, zeros where the subject is not.

    Args:
        width: of the patches' vectors.
        hidden: between the two.
        context: of the tokens, one for each patch.
    """

    def __init__(self, width: int, hidden: int, context: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, hidden, 3, padding=1)
        self.second = nn.Conv2d(hidden, context, 3, padding=1)
        self.norm = nn.LayerNorm(context)

    def forward(self, patches: Tensor, cover: Tensor | None) -> tuple[Tensor, Tensor]:
        """`b p width`, p a square number, and `b p` -> tokens `b p context`, and how much each counts, `b p 1`."""
        kept = torch.ones_like(patches[..., :1]) if cover is None else cover.to(patches).unsqueeze(-1)
        side = math.isqrt(patches.shape[1])
        grid = (patches * kept).transpose(1, 2).unflatten(2, (side, side))
        found = self.second(nn.functional.gelu(self.first(grid))).flatten(2).transpose(1, 2)
        return self.norm(found), kept


class KimSodCnn(AbstractReferenceAdapter):
    """The map to a word, the convolutional network, and the maps that read its tokens.

    Differs from the paper in that masks are given with the pictures, where it has a salient object detector; that both
    networks read one frozen encoder, a convolutional one (ResNet) or a transformer, where it has CLIP and a CNN; and
    that pictures are not drawn several times to keep the most similar.

    Args:
        config: of the adapter.
        width: of the image encoder's patches.
        maps: of every text cross-attention.
        context: of text states.
        tokens: of token rows.
    """

    sees: Sees = "patches"
    cuts = True
    asks_noun = True

    def __init__(
        self, config: KimSodCnnConfig, width: int, maps: PictureMaps, context: int, tokens: Sequence[int]
    ) -> None:
        super().__init__()
        self.width, self.context, self.tokens = width, context, list(tokens)
        self.concept = nn.Sequential(
            nn.Linear(width, config.hidden), nn.LayerNorm(config.hidden), nn.LeakyReLU(),
            nn.Linear(config.hidden, sum(tokens)),
        )  # fmt: skip
        self.local = LocalFeatures(width, config.hidden, context)
        self.maps = maps
        self.seen_words = SeenWords(1)
        self.inside = (self.seen_words,)

    @classmethod
    def untrained(cls, config: KimSodCnnConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "KimSodCnn":
        """Maps begin as the text's own."""
        maps = PictureMaps.like_the_texts(backbone)
        return cls(config, reading.width, maps, context_width(backbone), token_widths(backbone))

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("kim-sod-cnn", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Words of several pictures are averaged, tokens side by side."""
        named = asked.named
        if not any(named):
            return asked.encoded()
        sight = asked.shown.to(next(self.parameters())).sight
        patches = _patches(sight.object)
        made = self.concept(patches.mean(2)).mean(1, keepdim=True)
        words = between(asked.backbone, asked.nouns, made, self.tokens, min(asked.scale, 1.0))
        texts = asked.with_words(lambda text, noun: renamed(text, noun, f"{self.seen_words.word(1)} {noun}"))
        with self.seen_words.meaning(words):
            told = asked.encoded(texts)
        cover = None if sight.cover is None else sight.cover.flatten(0, 1)
        tokens, kept = (
            x.unflatten(0, patches.shape[:2]).flatten(1, 2) for x in self.local(patches.flatten(0, 1), cover)
        )
        counted = asked.scale * torch.tensor(named, device=tokens.device).to(tokens)[:, None, None]
        return told.beside(Decoupled(pairs=self.maps(kept * tokens, counted)))


def _patches(features: Tensor) -> Tensor:
    """`... k d` without a transformer's class token and registers, which come first: a square number is left."""
    count = math.isqrt(features.shape[-2]) ** 2
    return features[..., features.shape[-2] - count :, :]
