"""No pictures at all, for adapters that read words and boxes alone."""

import dataclasses

import torch
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.evaluate.encoders import Preprocessing
from pcs_ext.image.reference.encoder import PictureEncoder

_HALF = (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlindEncoder(PictureEncoder):
    """Sees nothing: every picture is a vector without numbers."""

    @classmethod
    def beside(cls, backbone: AbstractBackbone) -> "BlindEncoder":
        """For a base; they are all alike."""
        return cls(
            id="none",
            digest="none",
            sees="nothing",
            model=None,
            preprocessing=Preprocessing(resize=1, crop=(1, 1), mean=_HALF, std=_HALF),
            device=backbone.device,
            output="nothing",
        )

    @property
    def width(self) -> int:
        """None."""
        return 0

    def __call__(self, images: Tensor) -> Tensor:
        """Pictures `b 3 h w` -> `b 0`."""
        return torch.zeros(len(images), 0, device=self.device)

    def blank(self, features: Tensor) -> Tensor:
        """The same."""
        return features
