"""E4T, the tuning encoder (Gal et al. 2023, arXiv 2302.12228): a word near the class word, in a base made ready for it.

An encoder reads the picture and, at every noise level, what the denoiser's first half makes of the picture that is
being drawn; it predicts by how much the word differs from the class word. Offsets of the attention weights, the same
for all subjects, learn with it. It is meant to be tuned to a subject in a few steps afterwards (`reference tune`).
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import FullAdapter, FullConfig
from pcs_ext.image.adapters.weight_offsets import WeightOffsetAdapter
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.anew import AbstractWordAnew, Drawing, drawn_features
from pcs_ext.image.reference.base import Reading, Terms, check_context, context_width, token_widths
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.shown import Sees, Shown
from pcs_ext.image.reference.words import SeenWords, noun_rows


@config
class E4TConfig:
    """An encoder of word offsets, and weight offsets."""

    kind: Literal["e4t"] = "e4t"
    """Tag in JSON."""
    offset_scale: float = 0.1
    """The predicted offset counts so much (a public port's; the paper's could not be read)."""
    offset_weight: float = 0.01
    """Of the offset's squared length in the loss (section 4.1); 0.1 while it is tuned to a subject."""
    denoiser: bool = False
    """Whether all of the denoiser's weights are its own: those of a tuned one are."""

    def __post_init__(self) -> None:
        if self.offset_scale <= 0 or self.offset_weight < 0:
            raise ConfigError(
                f"offset_scale must be positive and offset_weight not negative, got {self.offset_scale} and "
                f"{self.offset_weight}."
            )


class E4T(AbstractWordAnew):
    """The encoder and the weight offsets.

    Differs from E4T in that it is trained for all classes at once, the class word being each subject's noun, where the
    paper trains one encoder for each; and in that another picture of the subject is shown than the one that is drawn.

    Args:
        config: of the adapter.
        reading: of the image encoder.
        blocks: channels that the denoiser's downward blocks put out.
        context: width of text states.
        tokens: of token rows.
        seed: of the weight offsets.
    """

    sees: Sees = "layers"
    depths = tuple(layer / 12 for layer in range(1, 13))
    """Every second of 24 layers."""
    asks_noun = True

    def __init__(
        self,
        config: E4TConfig,
        reading: Reading,
        blocks: Sequence[int],
        context: int,
        tokens: Sequence[int],
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.width, self.context, self.tokens = config, reading.width, context, list(tokens)
        # CLIP's own last norm stands before the linear map in the port; any encoder's layers are normed here.
        self.norm = nn.LayerNorm(reading.width)
        self.linear = nn.Linear(reading.width, reading.width)
        self.last = nn.Linear(reading.width + sum(blocks), sum(tokens))
        self.act = nn.LeakyReLU()
        self.seen_words = SeenWords(1)
        self.inside = (self.seen_words, WeightOffsetAdapter("reference_offsets", seed))
        if config.denoiser:
            self.inside = (*self.inside, FullAdapter("reference", FullConfig(components=("denoiser",))))
        self._offsets: Tensor | None = None

    @classmethod
    def untrained(cls, config: E4TConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "E4T":
        """Its weight offsets change nothing yet."""
        blocks = list(backbone.denoiser.config["block_out_channels"])
        return cls(config, reading, blocks, context_width(backbone), token_widths(backbone), seed)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("e4t", self.context, backbone)

    def seen_of(self, shown: Shown) -> Tensor:
        """See `AbstractWordAnew.seen_of`: pictures of a row are averaged."""
        classes = shown.to(next(self.parameters())).sight.features[..., 0, :]
        return self.norm(classes).mean((1, 2))[:, None]

    def words(self, backbone: AbstractBackbone, drawing: Drawing) -> list[Tensor]:
        """See `AbstractWordAnew.words`: the noun's row, moved by the offset."""
        like = self.last.weight
        drawn = drawn_features(backbone, drawing)
        seen = self.linear(drawing.read.vectors[:, 0].to(like))
        offsets = self.last(self.act(torch.cat([seen, drawn.to(like)], dim=-1)))
        self._offsets = offsets
        strength = self.config.offset_scale * drawing.read.strength
        moved = (strength[:, None] * offsets.float()).split(self.tokens, dim=-1)
        nouns = [noun_rows(backbone, noun) for noun in drawing.nouns]
        return [(torch.stack([rows[index] for rows in nouns]) + part)[:, None] for index, part in enumerate(moved)]

    def forget(self) -> None:
        """See `AbstractWordAnew.forget`."""
        self._offsets = None

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `offset`, its squared length, a mean over prompts."""
        self._offsets = None

        def terms() -> dict[str, Tensor]:
            lengths = self.last.weight.new_zeros(1) if self._offsets is None else self._offsets.square().sum(-1)
            return {"offset": self.config.offset_weight * lengths.mean()}

        yield terms
