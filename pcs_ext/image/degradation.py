"""What is not the subject drowns in noise that fades as training goes on (MagicTailor, arXiv 2410.13370)."""

import dataclasses

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.types import Batch


@config
class DegradeConfig:
    """Dynamic masked degradation: alpha (1 - (t / T)^gamma) times unit noise, added to pixels outside of the masks."""

    alpha: float = 0.5
    """Strength at the beginning, for images in [-1, 1]; the released code's."""
    gamma: float = 32.0
    """How long it stays: large values keep the strength until shortly before the end; the released code's."""
    begin: float = 0.0
    end: float = 1.0
    """Which part of the whole training this phase is, as shares in [0, 1]: t / T runs from one to the other."""

    def __post_init__(self) -> None:
        if self.alpha < 0 or self.gamma <= 0 or not 0 <= self.begin < self.end <= 1:
            raise ConfigError(
                f"alpha {self.alpha}, gamma {self.gamma}, begin {self.begin} or end {self.end} of a degradation is out "
                "of range; expected 0 or more, above 0, and shares in order."
            )

    def strength(self, step: int, steps: int) -> float:
        """In step `step` (0 is the first) of a phase of so many."""
        progress = self.begin + (self.end - self.begin) * (step + 1) / steps
        return self.alpha * (1 - progress**self.gamma)


def degraded(batch: Batch, strength: float, generator: torch.Generator) -> Batch:
    """The batch with noise outside of its masks; inside, where a mask is 1, every pixel is as it was.

    Its images belong to this step alone, so it has no keys. Without masks nothing changes.
    """
    if batch.masks is None:
        return batch
    noise = torch.randn(batch.images.shape, generator=generator)
    return dataclasses.replace(batch, images=_covered(batch.images, batch.masks, strength * noise), keys=None)


def _covered(images: Tensor, masks: Tensor, noise: Tensor) -> Tensor:
    return torch.where(masks == 1, images, (images + noise * (1 - masks)).clamp(-1, 1))
