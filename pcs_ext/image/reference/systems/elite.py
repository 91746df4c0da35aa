"""ELITE (Wei et al. 2023, arXiv 2302.13848): pictures as words, and their patches beside them.

A global mapper makes a word of each of several layers of the image encoder; only the first, of the deepest layer, is
kept for use, the others take up what is not the subject. A local mapper makes keys and values of the patches that the
subject covers; what a cell finds there counts as much as it looks at the word.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import CrossAttentionAdapter, CrossAttentionConfig
from pcs_ext.image.adapters.vocabulary import token_positions
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import (
    AbstractReferenceAdapter,
    Reading,
    Terms,
    TrainingStage,
    attention_widths,
    check_context,
    context_width,
    token_widths,
)
from pcs_ext.image.reference.nouns import renamed
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.shown import Sees, Shown
from pcs_ext.image.reference.words import SeenWords, between
from pcs_ext.image.types import Conditioning, Decoupled


@config
class EliteConfig:
    """A global and a local mapper."""

    kind: Literal["elite"] = "elite"
    """Tag in JSON."""
    hidden: int = 1024
    """Width inside the mappers; the released code's."""
    local_strength: float = 0.8
    """Of what is found in the patches, in use; 1 in training (lambda, section 3.2; the released settings')."""
    word_weight: float = 0.01
    """Of the mean absolute value of the words, in the first stage (section 3.1)."""
    value_weight: float = 1e-4
    """Of the mean absolute value of the patches' values, in the second (section 3.2)."""
    global_share: float = 0.5
    """Of the steps for the first stage; both had 200,000."""

    def __post_init__(self) -> None:
        if self.hidden < 1 or not 0 < self.global_share < 1:
            raise ConfigError(
                f"hidden must be at least 1 and global_share in (0, 1), got {self.hidden} and {self.global_share}."
            )
        if min(self.local_strength, self.word_weight, self.value_weight) < 0:
            raise ConfigError("local_strength, word_weight and value_weight must not be negative.")


class Elite(AbstractReferenceAdapter):
    """Mappers, the local keys and values, and the change of the base's own ones that read the words.

    Differs from ELITE in its data: another picture of the subject is shown instead of the target, blurred and turned,
    and the target is not moved about. Where its code divides the look at the word by the largest of the batch, it is
    the largest of the picture here, so that a picture does not depend on others.

    Args:
        config: of the adapter.
        reading: of the image encoder.
        channels: of every text cross-attention, by its path.
        context: width of text states.
        tokens: widths of token rows.
    """

    sees: Sees = "layers"
    depths = (1.0, 1 / 6, 1 / 3, 1 / 2, 2 / 3)
    """Layers 24, 4, 8, 12 and 16 of 24 in the released code."""
    cuts = True
    asks_noun = True
    asks_masks = True

    def __init__(
        self, config: EliteConfig, reading: Reading, channels: dict[str, int], context: int, tokens: Sequence[int]
    ) -> None:
        super().__init__()
        self.config, self.width, self.context, self.tokens = config, reading.width, context, list(tokens)
        count, width, hidden = reading.layers, reading.width, config.hidden
        self.global_class = nn.ModuleList(_mapper(width, hidden, sum(tokens)) for _ in range(count))
        self.global_patches = nn.ModuleList(_mapper(width, hidden, sum(tokens)) for _ in range(count))
        self.local_class = nn.ModuleList(_mapper(width, hidden, context) for _ in range(count))
        self.local_patches = nn.ModuleList(_mapper(width, hidden, context) for _ in range(count))
        self.maps = {path: path.replace(".", "_") for path in channels}
        self.local_keys = nn.ModuleDict({n: nn.Linear(context, channels[p], bias=False) for p, n in self.maps.items()})
        self.local_values = nn.ModuleDict(
            {n: nn.Linear(context, channels[p], bias=False) for p, n in self.maps.items()}
        )
        self.seen_words = SeenWords(count)
        self.kept = CrossAttentionAdapter("reference_global", CrossAttentionConfig())
        self.inside = (self.seen_words, self.kept)
        self.local = True
        """Whether patches are seen, and of the words the first alone: in the second stage and in use."""

    @property
    def stages(self) -> tuple[TrainingStage, ...]:
        """The global mapper with the base's keys and values, then the local one."""
        share = self.config.global_share
        return (
            TrainingStage(name="global", share=share, trains=("global", "base")),
            TrainingStage(name="local", share=1 - share, trains=("local",)),
        )

    def begin_stage(self, name: str) -> None:
        """See `AbstractReferenceAdapter.begin_stage`."""
        self.local = name == "local"

    def groups(self) -> dict[str, tuple[nn.Parameter, ...]]:
        """`global`, `local`, `base`."""
        first = (self.global_class, self.global_patches)
        second = (self.local_class, self.local_patches, self.local_keys, self.local_values)
        return {
            "global": tuple(p for module in first for p in module.parameters()),
            "local": tuple(p for module in second for p in module.parameters()),
            "base": self.kept.parameters()["denoiser"],
        }

    @classmethod
    def untrained(cls, config: EliteConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "Elite":
        """Keys and values begin as the text's own."""
        made = cls(config, reading, attention_widths(backbone), context_width(backbone), token_widths(backbone))
        with torch.no_grad():
            for path, name in made.maps.items():
                attention = backbone.denoiser.get_submodule(path)
                made.local_keys[name].weight.copy_(attention.to_k.weight)  # type: ignore[union-attr, operator]
                made.local_values[name].weight.copy_(attention.to_v.weight)  # type: ignore[union-attr, operator]
        return made

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("elite", self.context, backbone)

    def words(self, features: Tensor) -> Tensor:
        """`b l k width` -> a word of each layer, `b l tokens`, of all text encoders side by side."""
        made = [
            of_class(features[:, index, 0]) + of_patches(features[:, index, 1:]).mean(1)
            for index, (of_class, of_patches) in enumerate(zip(self.global_class, self.global_patches, strict=True))
        ]
        return torch.stack(made, dim=1)

    def patches(self, features: Tensor, cover: Tensor | None) -> Tensor:
        """`b l k width` -> `b k-1 context`, zeros where the subject is not."""
        made = [
            of_class(features[:, index, :1]) + of_patches(features[:, index, 1:])
            for index, (of_class, of_patches) in enumerate(zip(self.local_class, self.local_patches, strict=True))
        ]
        mean = torch.stack(made).mean(0)
        return mean if cover is None else mean * cover.to(mean).unsqueeze(-1)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Words of several pictures are averaged, patches side by side."""
        if not any(asked.named):
            return asked.encoded()
        sight = asked.shown.to(next(self.parameters())).sight
        words = self.words(sight.features.flatten(0, 1)).unflatten(0, sight.features.shape[:2]).mean(1)
        count = 1 if self.local else words.shape[1]
        stand_in = " ".join(self.seen_words.word(number) for number in range(1, 1 + count))
        texts = asked.with_words(lambda text, noun: renamed(text, noun, stand_in))
        with self.seen_words.meaning(between(asked.backbone, asked.nouns, words, self.tokens, asked.scale)):
            told = asked.encoded(texts)
        return self._beside(asked, told, texts) if self.local else told

    def _beside(self, asked: Asked, told: Conditioning, texts: list[str]) -> Conditioning:
        strength = asked.scale * (1.0 if self.training else self.config.local_strength)
        patches = self._local(asked.shown) * torch.tensor(asked.named, device=asked.backbone.device)[:, None, None]
        pairs = {
            path: (self.local_keys[name](patches), strength * self.local_values[name](patches))
            for path, name in self.maps.items()
        }
        gate = token_positions(asked.backbone, [self.seen_words.word(1)], texts).float()
        return told.beside(Decoupled(pairs=pairs, gate=gate))

    def _local(self, shown: Shown) -> Tensor:
        """Of all pictures of each row, `b r*(k-1) context`."""
        sight = shown.to(next(self.parameters())).sight
        cover = None if sight.cover is None else sight.cover.flatten(0, 1)
        patches = self.patches(sight.object.flatten(0, 1), cover)
        return patches.unflatten(0, sight.features.shape[:2]).flatten(1, 2)

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `words`, the mean of their absolute values, or `values`."""

        def terms() -> dict[str, Tensor]:
            if not self.local:
                words = self.words(pairs.shown.sight.features.flatten(0, 1))
                return {"words": self.config.word_weight * words.abs().mean()}
            patches = self._local(pairs.shown)
            means = [layer(patches).abs().mean() for layer in self.local_values.values()]
            return {"values": self.config.value_weight * torch.stack(means).mean()}

        yield terms


def _mapper(entering: int, hidden: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(entering, hidden), nn.LayerNorm(hidden), nn.LeakyReLU(),
        nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.LeakyReLU(),
        nn.Linear(hidden, width),
    )  # fmt: skip
