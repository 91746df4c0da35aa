"""Random parts of photos are neither shown nor asked for (DemoCaricature, Chen et al. 2023, arXiv 2312.04364)."""

import dataclasses

import torch
import torch.nn.functional as F

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.types import Batch


@config
class HideConfig:
    """Random mask reconstruction: squares of a grid are hidden anew in every step.

    What is learned of a photo then cannot hang on the whole of it. That the paper masks at random is what a summary of
    it says; grid, share and that what is hidden does not count are ours.
    """

    cells: int = 8
    """Squares per side of the grid."""
    share: float = 0.25
    """Probability of each to be hidden, in [0, 1)."""

    def __post_init__(self) -> None:
        if self.cells < 1 or not 0 <= self.share < 1:
            raise ConfigError(
                f"hiding takes 1 cell or more and a share in [0, 1), got {self.cells} and {self.share} of them."
            )


def hidden(batch: Batch, settings: HideConfig, generator: torch.Generator) -> Batch:
    """The batch with gray squares, which its masks leave out; where all of a mask would be hidden, nothing is.

    Its images belong to this step alone, so it has no keys.
    """
    side = settings.cells
    away = (torch.rand(len(batch.images), 1, side, side, generator=generator) < settings.share).float()
    away = F.interpolate(away, size=batch.images.shape[-2:], mode="nearest")
    masks = torch.ones_like(away) if batch.masks is None else batch.masks
    left = (masks * (1 - away) > 0.5).flatten(1).any(1)[:, None, None, None]
    shown = torch.where(left, 1 - away, torch.ones_like(away))
    return dataclasses.replace(batch, images=batch.images * shown, masks=masks * shown, keys=None)
