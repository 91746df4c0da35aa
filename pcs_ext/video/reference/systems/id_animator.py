"""ID-Animator (He et al. 2024, arXiv 2404.15275): a face adapter in a frozen AnimateDiff, trained on clips.

Learned queries read the patches of a picture; every text cross-attention gets a second key and value map for what they
become, in every frame alike. The picture is another frame of the same person than those that are drawn, so that the
identity is what can be learned from it.
"""

from typing import Literal

from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import LowRankAdapter, LowRankConfig
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import Reading, check_context
from pcs_ext.image.reference.projection import Resampler
from pcs_ext.image.reference.shown import Sees, Shown
from pcs_ext.image.types import Conditioning, Decoupled
from pcs_ext.video.reference.base import AbstractClipReference
from pcs_ext.video.reference.token_maps import TokenMaps

_HEAD = 64
_TEXT_ATTENTION = (r"\.transformer_blocks\.\d+\.attn2\.(to_q|to_k|to_v|to_out\.0)$",)


@config
class IDAnimatorConfig:
    """Queries for a picture's patches, and low-rank weights in the text attention."""

    kind: Literal["id-animator"] = "id-animator"
    """Tag in JSON."""
    tokens: int = 16
    """Learned queries; the released code's."""
    inner: int = 768
    """Width in which they read; the released code's, which is that of Stable Diffusion 1.x's text states."""
    heads: int = 12
    """Of 64 numbers each, of their attention; the released code's."""
    depth: int = 4
    """Their blocks; the released code's."""
    rank: int = 128
    """Of low-rank weights on the text cross-attentions, which the released weights have and the paper's text does not
    name; 0: none."""

    def __post_init__(self) -> None:
        if min(self.tokens, self.inner, self.heads, self.depth) < 1 or self.rank < 0:
            raise ConfigError(
                "tokens, inner, heads and depth must be at least 1 and rank not negative, got "
                f"{self.tokens}, {self.inner}, {self.heads}, {self.depth} and {self.rank}."
            )


class IDAnimator(AbstractClipReference):
    """The queries, the maps and the low-rank weights.

    Differs from ID-Animator in that nothing looks for a face: photos, or whole frames, are shown as they are, so it is
    for any subject. Crop them to the face for faces. No loss on a face recogniser's embedding.

    Args:
        config: of the adapter.
        width: of the image encoder's patches.
        maps: to keys and values.
        seed: of the low-rank weights.
    """

    sees: Sees = "patches"

    def __init__(self, config: IDAnimatorConfig, width: int, maps: TokenMaps, seed: int = 0) -> None:
        super().__init__()
        self.config, self.width, self.maps = config, width, maps
        self.queries = Resampler(
            width,
            maps.context,
            config.tokens,
            inner=config.inner,
            attention=_HEAD * config.heads,
            depth=config.depth,
        )
        low_rank = LowRankConfig(rank=max(config.rank, 1), targets=_TEXT_ATTENTION, init_seed=seed)
        self.inside = (LowRankAdapter("reference_text", low_rank),) if config.rank else ()

    @classmethod
    def untrained(
        cls, config: IDAnimatorConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "IDAnimator":
        """Maps begin as the text's own, low-rank weights at nothing."""
        return cls(config, reading.width, TokenMaps.as_text(backbone), seed)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("id-animator", self.maps.context, backbone)

    def tokens(self, shown: Shown) -> Tensor:
        """`b tokens context`: those of several pictures are averaged, as in the released code."""
        features = shown.sight.features.to(self.dtype)
        return self.queries(features.flatten(0, 1)).unflatten(0, features.shape[:2]).mean(1)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`."""
        found = self.maps(self.tokens(asked.shown))
        pairs = {path: (keys, asked.scale * values) for path, (keys, values) in found.items()}
        return asked.encoded().beside(Decoupled(pairs=pairs))
