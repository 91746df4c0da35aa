"""IDAdapter (Cui et al. 2024, arXiv 2403.13535): patches of several photos mixed, as a word and in gated layers.

In training several photos of one person are mixed patch by patch, so that what they share counts more than the pose or
the light of one; in use one photo stands in all their places. The mixture becomes a word before the class word, and
gated layers between self- and cross-attention read it. What is drawn must look like the person (identity loss).
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
    Reading,
    block_widths,
    check_context,
    context_width,
    token_widths,
)
from pcs_ext.image.reference.gated_adapter import AbstractGatedAdapter
from pcs_ext.image.reference.identity import IdentityLoss
from pcs_ext.image.reference.inside import beside
from pcs_ext.image.reference.nouns import renamed
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.reference.words import SeenWords, between
from pcs_ext.image.types import Conditioning


@config
class IDAdapterConfig:
    """A mixture of photos, a word of it, and gated layers."""

    kind: Literal["idadapter"] = "idadapter"
    """Tag in JSON."""
    photos: int = 10
    """That are mixed (as recalled); fewer are repeated, more are averaged in their places."""
    width: int = 1024
    """Of a mixed patch; ours."""
    heads: int = 8
    """Of the gated layers' attention (as recalled of GLIGEN, arXiv 2301.07093)."""
    balance: float = 1.0
    """Strength of the gated layers in use; 1 in training. Lower ones heed the prompt more."""
    identity_weight: float = 0.01
    """Of 1 minus the cosine; ours: the paper's was not to be had."""
    identity_below: float = 0.25
    """Share of the noise levels, the lower ones, in which that counts; ours."""

    def __post_init__(self) -> None:
        if min(self.photos, self.width, self.heads) < 1 or min(self.balance, self.identity_weight) < 0:
            raise ConfigError(
                "photos, width and heads must be at least 1, balance and identity_weight not negative, got "
                f"{self.photos}, {self.width}, {self.heads}, {self.balance} and {self.identity_weight}."
            )
        if not 0 < self.identity_below <= 1:
            raise ConfigError(f"identity_below must be in (0, 1], got {self.identity_below}.")


class IDAdapter(AbstractGatedAdapter):
    """The network that mixes, the map to a word, and the gated layers.

    Differs from IDAdapter in that patches of any frozen image encoder stand for a face recogniser's vector and CLIP's
    patches of a face that was parsed and cut out; around the subject it is black where masks are known.

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
    patches_name = "reference_idadapter"

    def __init__(
        self, config: IDAdapterConfig, width: int, widths: dict[str, int], context: int, tokens: Sequence[int]
    ) -> None:
        super().__init__()
        self.config, self.width, self.context, self.tokens = config, width, context, list(tokens)
        self.mix = nn.Sequential(
            nn.Linear(config.photos * width, config.width), nn.LayerNorm(config.width), nn.GELU(),
            nn.Linear(config.width, config.width),
        )  # fmt: skip
        self.word = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, sum(tokens)))
        self.begin_gates(widths, config.width, config.heads)
        self.seen_words = SeenWords(1)
        self.inside = (self.seen_words,)

    @property
    def identity(self) -> IdentityLoss | None:
        """See `AbstractReferenceAdapter.identity`."""
        if self.config.identity_weight == 0:
            return None
        return IdentityLoss(weight=self.config.identity_weight, below=self.config.identity_below)

    @classmethod
    def untrained(cls, config: IDAdapterConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "IDAdapter":
        """Its gates are shut."""
        return cls(config, reading.width, block_widths(backbone), context_width(backbone), token_widths(backbone))

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("idadapter", self.context, backbone)

    def mixed(self, patches: Tensor) -> Tensor:
        """Patches of photos `b r k d` -> of their mixture, `b k width`."""
        places = self.config.photos
        rounds = math.ceil(patches.shape[1] / places)
        turns = torch.arange(rounds * places, device=patches.device) % patches.shape[1]
        full = patches[:, turns].unflatten(1, (rounds, places)).mean(1)
        return self.mix(full.transpose(1, 2).flatten(2))

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`."""
        if not any(asked.named):
            return asked.encoded()
        mixed = self.mixed(asked.shown.to(next(self.parameters())).sight.object[:, :, 0])
        words = between(asked.backbone, asked.nouns, self.word(mixed.mean(1))[:, None], self.tokens, asked.scale)
        texts = asked.with_words(lambda text, noun: renamed(text, noun, f"{self.seen_words.text} {noun}"))
        with self.seen_words.meaning(words):
            told = asked.encoded(texts)
        strength = asked.scale * (1.0 if self.training else self.config.balance)
        return beside(told, self.patches_name, mixed, strength * torch.tensor(asked.named, device=mixed.device))
