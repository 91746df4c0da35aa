"""SuTI (Chen et al. 2023, arXiv 2304.00186): an apprentice that learned in context what many experts were tuned for.

Photos of a subject with captions are demonstrations, which Re-Imagen's attention reads (`AbstractNeighbours`); the
prompt says what shall be drawn. It learns from albums to which an expert, tuned to each, added pictures of prompts that
nobody photographed (`reference teach`).
"""

from typing import Literal

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.base import Reading, context_width
from pcs_ext.image.reference.neighbours import AbstractNeighbours


@config
class SuTIConfig:
    """An attention to demonstrations, and how guidance takes turns."""

    kind: Literal["suti"] = "suti"
    """Tag in JSON."""
    heads: int = 8
    """Of the attention. Ours."""
    turns: float = 0.5
    """Share of the steps whose guidance goes away from the prompt without demonstrations. Ours."""

    def __post_init__(self) -> None:
        if self.heads < 1 or not 0 <= self.turns <= 1:
            raise ConfigError(f"heads must be at least 1 and turns in [0, 1], got {self.heads} and {self.turns}.")


class SuTI(AbstractNeighbours):
    """The attention to demonstrations and the denoiser.

    Differs from SuTI in the base, which was Imagen; in its experts, which are low-rank weights here; and in that photos
    are drawn and experts' pictures shown, too, where the paper's apprentice only draws what an expert drew.
    """

    asks_noun = True

    @classmethod
    def untrained(cls, config: SuTIConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "SuTI":
        """The base's outputs do not change yet."""
        width = list(backbone.denoiser.config["block_out_channels"])[-1]
        return cls("suti", config.turns, config.heads, width, reading.width, context_width(backbone))
