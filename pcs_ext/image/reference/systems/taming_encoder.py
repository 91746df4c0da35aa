"""Taming Encoder (Jia et al. 2023, arXiv 2304.02642): an object's own features beside the text, no tuning afterwards.

The object is cut out of its photo and encoded; its features are read by an attention beside the text's, in every
layer, and the base's own attention to the text is tuned with it. So that what the base could draw stays, a share of the
pairs is drawn by captions alone (*regularised joint training*), and a share of the errors counts on the object alone
(*identity preservation*).
"""

from typing import Literal

from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import CrossAttentionAdapter, CrossAttentionConfig
from pcs_ext.image.adapters.cross_attention import Projection
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import AbstractReferenceAdapter, Reading, check_context, context_width
from pcs_ext.image.reference.beside import PictureMaps
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning, Decoupled


@config
class TamingEncoderConfig:
    """Features beside the text, and the base's attention to the text. What is said here is ours: of the paper's sizes
    none could be read."""

    kind: Literal["taming-encoder"] = "taming-encoder"
    """Tag in JSON."""
    tuned: tuple[Projection, ...] = ("to_q", "to_k", "to_v", "to_out.0")
    """Which projections of the base's attention to the text learn, too; empty: none."""

    def __post_init__(self) -> None:
        if len(set(self.tuned)) < len(self.tuned):
            raise ConfigError(f"tuned must name different projections, got {', '.join(self.tuned)}.")


class TamingEncoder(AbstractReferenceAdapter):
    """The map of the object's features, keys and values for them, and the tuned attention.

    Differs from the paper in its base (Imagen there); in that the image encoder stays as it is; in that masks and
    captions come with the photos, where it has a segmenter and a captioner; in that another photo of the object is
    shown than the one that is drawn; and in that pictures of the same albums, by their captions alone, stand for the
    wide set of pictures that it trains jointly on. The paper could be read in summary only: that the identity
    preservation loss is the error inside the mask, how it weighs beside the whole error, which layers are tuned, and
    which of the encoder's features are read is how it is read here.

    Args:
        config: of the adapter.
        backbone: whose keys and values those of the features begin as.
        width: of the image encoder's patches.
    """

    sees: Sees = "patches"
    cuts = True
    asks_masks = True

    def __init__(self, config: TamingEncoderConfig, backbone: AbstractBackbone, width: int) -> None:
        super().__init__()
        self.config, self.width, self.context = config, width, context_width(backbone)
        self.project = nn.Sequential(nn.Linear(width, self.context), nn.LayerNorm(self.context))
        self.maps = PictureMaps.like_the_texts(backbone)
        if config.tuned:
            tuned = CrossAttentionConfig(projections=config.tuned)
            self.inside = (CrossAttentionAdapter("reference_attention", tuned),)

    @classmethod
    def untrained(
        cls, config: TamingEncoderConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "TamingEncoder":
        """Keys and values begin as the text's, the tuned attention as the base's."""
        return cls(config, backbone, reading.width)

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("taming-encoder", self.context, backbone)

    def features_of(self, patches: Tensor) -> Tensor:
        """Patches of pictures `b r k width` -> what is read beside the text, `b r*k context`."""
        return self.project(patches.flatten(1, 2))

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Features of several pictures stand side by side."""
        told = asked.encoded()
        if not bool(asked.seen.any()):
            return told
        features = self.features_of(asked.shown.to(next(self.parameters())).sight.object)
        counted = (asked.scale * asked.seen).to(features)[:, None, None]
        return told.beside(Decoupled(pairs=self.maps(features, counted)))
