"""PortraitBooth (Peng et al. 2023, arXiv 2312.06354): a face mixed into its word, and an identity loss.

The embedding is mixed into the encoded class word. In training the attention to that word, and to a word of expression
beside it, is held to the face; and where there is little noise, what is drawn must look like the person.
"""

from typing import Literal

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import CrossAttentionAdapter, CrossAttentionConfig
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.fused_adapter import AbstractFusedAdapter
from pcs_ext.image.reference.fusing import Places, fused
from pcs_ext.image.reference.identity import IdentityLoss
from pcs_ext.image.reference.localization import placed
from pcs_ext.image.reference.nouns import names, noun_positions
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.types import Conditioning

_EXPRESSIONS = (
    "happy",
    "sad",
    "angry",
    "surprised",
    "disgusted",
    "fearful",
    "neutral",
    "smiling",
    "laughing",
    "crying",
)


@config
class PortraitBoothConfig:
    """A face in its word, attention that stays on it, and an identity loss."""

    kind: Literal["portraitbooth"] = "portraitbooth"
    """Tag in JSON."""
    expressions: tuple[str, ...] = _EXPRESSIONS
    """Words of captions whose attention is held to the face, too; ours: the basic emotions, and two more."""
    localization_weight: float = 1e-3
    """Of the attention outside of the mask less that inside; FastComposer's (arXiv 2305.10431), as the paper's was not
    to be had."""
    localization_levels: int = 5
    """Of the denoiser's blocks with cross-attention the middle so many are held to masks; likewise."""
    identity_weight: float = 0.01
    """Of 1 minus the cosine; ours, likewise."""
    identity_below: float = 0.25
    """Share of the noise levels, the lower ones, in which that counts; ours, likewise."""

    def __post_init__(self) -> None:
        if min(self.localization_weight, self.identity_weight) < 0 or self.localization_levels < 1:
            raise ConfigError(
                "localization_weight and identity_weight must not be negative and localization_levels at least 1, got "
                f"{self.localization_weight}, {self.identity_weight} and {self.localization_levels}."
            )
        if not 0 < self.identity_below <= 1:
            raise ConfigError(f"identity_below must be in (0, 1], got {self.identity_below}.")


class PortraitBooth(AbstractFusedAdapter):
    """The network that mixes, and keys and values of the base's cross-attention.

    Differs from PortraitBooth in that any frozen image encoder's embedding stands for the shallow features of a face
    recogniser, and that of the denoiser the keys and values of the text learn, as the paper's choice was not to be had.
    Several pictures of one subject are averaged.

    Args:
        config: of the adapter.
        width: of the image encoder's embedding.
        context: of text states.
    """

    def weights(self) -> AbstractAdapter:
        """See `AbstractFusedAdapter.weights`."""
        return CrossAttentionAdapter("reference_portraitbooth", CrossAttentionConfig())

    @property
    def identity(self) -> IdentityLoss | None:
        """See `AbstractReferenceAdapter.identity`."""
        if self.config.identity_weight == 0:
            return None
        return IdentityLoss(weight=self.config.identity_weight, below=self.config.identity_below)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`."""
        plain = asked.encoded()
        places, embeddings = placed(asked.backbone, asked.prompts, asked.shown)
        return fused(plain, places, embeddings, self.fuse, asked.scale) if places.rows else plain

    def held(self, backbone: AbstractBackbone, pairs: Pairs) -> Places:
        """See `AbstractFusedAdapter.held`: also expressions, where there is one subject."""
        places = super().held(backbone, pairs)
        rows, tokens, pictures = list(places.rows), list(places.tokens), list(places.pictures)
        for row in dict.fromkeys(places.rows):
            if len(set(pairs.shown.nouns[row]) - {""}) > 1:
                continue  # whose expression it is the caption does not say
            for word in self.config.expressions:
                found = noun_positions(backbone, pairs.captions[row], word) if names(pairs.captions[row], word) else []
                rows += [row] * len(found)
                tokens += found
                pictures += [0] * len(found)
        return Places(rows, tokens, pictures)
