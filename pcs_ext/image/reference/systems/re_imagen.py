"""Re-Imagen (Chen et al. 2022, arXiv 2209.14491): what is drawn looks at pictures that were retrieved for its prompt.

Pictures with captions are neighbours (`AbstractNeighbours`). While it learns, a picture's neighbours are those whose
captions are most like its own; in use they are what `reference retrieve` finds for the prompt, or any photos.
"""

from typing import Literal

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.base import Reading, context_width
from pcs_ext.image.reference.neighbours import AbstractNeighbours


@config
class ReImagenConfig:
    """An attention to neighbours, and how guidance takes turns."""

    kind: Literal["re-imagen"] = "re-imagen"
    """Tag in JSON."""
    heads: int = 8
    """Of the attention. Ours."""
    turns: float = 0.5
    """Share of the steps whose guidance goes away from the prompt without neighbours (eta). Ours: the paper's could not
    be read."""

    def __post_init__(self) -> None:
        if self.heads < 1 or not 0 <= self.turns <= 1:
            raise ConfigError(f"heads must be at least 1 and turns in [0, 1], got {self.heads} and {self.turns}.")


class ReImagen(AbstractNeighbours):
    """The attention to neighbours and the denoiser.

    Differs from Re-Imagen in the base, which was a cascade of Imagen's; and in that neighbours are found by their
    captions alone (BM25), where the paper also compares them by CLIP.
    """

    retrieves = 2
    """Neighbours of each picture in training (as recalled)."""

    @classmethod
    def untrained(cls, config: ReImagenConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "ReImagen":
        """The base's outputs do not change yet."""
        width = list(backbone.denoiser.config["block_out_channels"])[-1]
        return cls("re-imagen", config.turns, config.heads, width, reading.width, context_width(backbone))
