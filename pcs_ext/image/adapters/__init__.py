"""What trains: learned tokens, low-rank weight adapters, cross-attention projections, singular values, full weights."""

from typing import Annotated, TypeAlias

from pydantic import Discriminator

from pcs_ext.image.adapters.base import AbstractAdapter, injected
from pcs_ext.image.adapters.cross_attention import CrossAttentionAdapter, CrossAttentionConfig
from pcs_ext.image.adapters.embedding import EmbeddingAdapter, EmbeddingConfig
from pcs_ext.image.adapters.full import FullAdapter, FullConfig
from pcs_ext.image.adapters.low_rank import LowRankAdapter, LowRankConfig

AdapterConfig: TypeAlias = Annotated[
    EmbeddingConfig | LowRankConfig | CrossAttentionConfig | FullConfig,
    Discriminator("kind"),
]
"""Every adapter's configuration; the field `kind` says which one a JSON object is."""

_CLASSES = {
    EmbeddingConfig: EmbeddingAdapter,
    LowRankConfig: LowRankAdapter,
    CrossAttentionConfig: CrossAttentionAdapter,
    FullConfig: FullAdapter,
}


def build_adapter(name: str, config: AdapterConfig) -> AbstractAdapter:
    """The adapter a configuration describes, not yet injected.

    Raises:
        UsageError: the name holds anything but letters, digits and underscores.
    """
    return _CLASSES[type(config)](name, config)  # type: ignore[arg-type]


__all__ = [
    "AbstractAdapter",
    "AdapterConfig",
    "CrossAttentionAdapter",
    "CrossAttentionConfig",
    "EmbeddingAdapter",
    "EmbeddingConfig",
    "FullAdapter",
    "FullConfig",
    "LowRankAdapter",
    "LowRankConfig",
    "build_adapter",
    "injected",
]
