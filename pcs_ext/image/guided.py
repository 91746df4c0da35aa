"""How often photos are learned with a map of where their subjects are (Matsuda et al., ICASSP 2024)."""

import dataclasses

import torch

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.types import Batch


@config
class GuideShare:
    """The share gamma of the guided loss, from the first step to the last: (1 - gamma) L + gamma L_guided.

    A row is guided with probability gamma, which is that sum in expectation and needs one pass of the denoiser.
    """

    begin: float = 0.0
    """In the first step, in [0, 1]."""
    end: float = 1.0
    """In the last step, in [0, 1]."""

    def __post_init__(self) -> None:
        if not (0 <= self.begin <= 1 and 0 <= self.end <= 1):
            raise ConfigError(f"the shares of a guide lie in [0, 1], got {self.begin} and {self.end}.")

    def at(self, step: int, steps: int) -> float:
        """Gamma in step 0 to `steps` - 1, linear between the two."""
        return self.begin + (self.end - self.begin) * step / max(steps - 1, 1)


def guided(batch: Batch, share: float, generator: torch.Generator) -> Batch:
    """The batch with maps of where its subjects are, in a random share of its rows.

    Args:
        batch: of photos with masks.
        share: probability of each row's map to be shown.
        generator: of which rows.
    """
    masks = batch.masks if batch.part_masks is None else batch.part_masks
    assert masks is not None, "a recipe that guides asks for masks"
    shown = torch.rand(len(masks), generator=generator) < share
    return dataclasses.replace(batch, guides=masks * shown[:, None, None, None].to(masks))
