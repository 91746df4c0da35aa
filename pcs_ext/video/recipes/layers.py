"""What of a backbone trains: adapters on kinds of layers, words for prompts, networks beside modules."""

import re
from typing import Literal

from pcs_ext.config_io import config
from pcs_ext.image.adapters import (
    AdapterConfig,
    EmbeddingConfig,
    FrameWordConfig,
    FullConfig,
    LowRankConfig,
    SideNetworkConfig,
)
from pcs_ext.video.backbone import AbstractVideoBackbone, LayerKind

MOTION, PROTAGONIST = "{motion}", "{protagonist}"
"""What prompts write where a learned motion, or who does it in the clip it was learned from, has a word."""


@config
class LayersConfig:
    """What trains: an adapter on one kind of layers, whatever they are called in the backbone at hand."""

    layers: LayerKind
    """Which layers."""
    method: Literal["lora", "full"] = "lora"
    """Low-rank updates, or the weights themselves."""
    rank: int = 32
    """Of lora."""
    alpha: float | None = None
    """Of lora; None: equal to the rank, an update of scale 1."""
    dropout: float = 0.0
    """Of lora's update, in [0, 1)."""
    projections: tuple[str, ...] = ()
    """Only layers of these names (`to_q`, ...); empty: all of the kind."""
    share: float = 1.0
    """Only in this share of the blocks, those whose text changes the prediction most; in (0, 1] (CustomTTT)."""
    blocks: tuple[str, ...] = ()
    """Which they are, `up_blocks.1` and so on; filled in by learning where `share` is below 1."""

    def adapter(self, backbone: AbstractVideoBackbone) -> AdapterConfig:
        """The core's configuration for a backbone."""
        targets = backbone.targets(self.layers)
        patterns = targets.patterns
        if self.projections:
            ahead = "(?=.*\\.(" + "|".join(self.projections) + ")(\\.|$))"
            patterns = tuple(ahead + pattern for pattern in patterns)
        if self.blocks:
            within = "^(?=(" + "|".join(re.escape(block) for block in self.blocks) + ")\\.).*"
            patterns = tuple(within + pattern for pattern in patterns)
        if self.method == "full":
            # Patterns end at the layer; parameters are its weight and bias.
            weights = tuple(pattern.removesuffix("$") + r"\.(weight|bias)$" for pattern in patterns)
            return FullConfig(components=(targets.component,), include=weights)
        return LowRankConfig(
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
            targets=patterns,
            components=(targets.component,),
        )


@config
class WordConfig:
    """What trains: a new word in prompts, where they say `{motion}` or `{protagonist}`."""

    placeholder: str
    """The word, like `<motion>`."""
    stands_for: Literal["{motion}", "{protagonist}"] = "{motion}"
    """What prompts write for it."""
    initializer: str = "random"
    """See `EmbeddingConfig`."""
    num_vectors: int = 1
    """Tokens it stands for."""
    per_frame: bool = False
    """Whether it means something else in every frame."""
    frames: int = 0
    """How many then; filled in by learning."""

    def adapter(self, backbone: AbstractVideoBackbone) -> AdapterConfig:
        """The core's configuration; the same for every backbone."""
        if not self.per_frame:
            return EmbeddingConfig(
                placeholder=self.placeholder, initializer=self.initializer, num_vectors=self.num_vectors
            )
        return FrameWordConfig(
            placeholder=self.placeholder,
            initializer=self.initializer,
            num_vectors=self.num_vectors,
            frames=self.frames,
        )


@config
class NetworksConfig:
    """What trains: small networks beside the attention and feed-forward modules of one kind of layers (DreamVideo)."""

    layers: Literal["temporal", "cross_attention"]
    """Which layers."""
    told: bool = False
    """Whether they are told what the clip looks like: an image encoder's embedding of one of its frames."""
    width_told: int = 0
    """Of that embedding; filled in by learning, which knows the encoder."""

    def adapter(self, backbone: AbstractVideoBackbone) -> AdapterConfig:
        """The core's configuration for a backbone."""
        targets = backbone.targets(self.layers)
        return SideNetworkConfig(
            targets=targets.modules, components=(targets.component,), condition_width=self.width_told
        )
