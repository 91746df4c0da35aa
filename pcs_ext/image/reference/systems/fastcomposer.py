"""FastComposer (Xiao et al. 2023, arXiv 2305.10431): several subjects, each mixed into the word that names it.

The base's denoiser is trained with it, and the attention to every such word is held to its subject's mask, so that two
subjects do not blend. The first noise levels of a picture see the words alone.
"""

from typing import Literal

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.delay import delayed
from pcs_ext.image.reference.fused_adapter import AbstractFusedAdapter
from pcs_ext.image.reference.fusing import fused
from pcs_ext.image.reference.localization import placed
from pcs_ext.image.types import Conditioning


@config
class FastComposerConfig:
    """Pictures mixed into words, and the whole denoiser."""

    kind: Literal["fastcomposer"] = "fastcomposer"
    """Tag in JSON."""
    delay: float = 0.2
    """Share of the noise levels that see the words alone: 10 of 50 steps in the released settings."""
    localization_weight: float = 1e-3
    """Of the attention outside of a subject's mask less that inside (section 3.3); the released settings'."""
    localization_levels: int = 5
    """Of the denoiser's blocks with cross-attention the middle so many are held to the masks; 5 of 7 there."""

    def __post_init__(self) -> None:
        if not 0 <= self.delay <= 1 or self.localization_weight < 0 or self.localization_levels < 1:
            raise ConfigError(
                "delay must be in [0, 1], localization_weight not negative and localization_levels at least 1, got "
                f"{self.delay}, {self.localization_weight} and {self.localization_levels}."
            )


class FastComposer(AbstractFusedAdapter):
    """The network that mixes, and the denoiser.

    Differs from FastComposer, which also trains the last two layers of the image encoder: here it stays as it is.
    Several pictures of one subject are averaged, as in the released demonstration (as recalled).
    """

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`."""
        plain = asked.encoded()
        places, embeddings = placed(asked.backbone, asked.prompts, asked.shown)
        if not places.rows:
            return plain
        told = fused(plain, places, embeddings, self.fuse, asked.scale)
        if self.training or self.config.delay == 0:
            return told
        return delayed(plain, told, self.config.delay, asked.backbone.schedule.num_train_timesteps)
