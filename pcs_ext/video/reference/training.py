"""The loss by which adapters learn that show clip models photos: the model denoises a clip beside the pictures."""

import dataclasses

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.training import ReferenceLoss, ReferenceSchedule
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.noise import with_common
from pcs_ext.video.reference.base import AbstractClipReference
from pcs_ext.video.reference.kinds import ClipKindConfig


@config
class ClipReferenceTraining(ReferenceSchedule):
    """How an adapter for clip models is trained, and which."""

    adapter: ClipKindConfig | None = None
    """What is trained; None: the system's own settings."""
    frames: int = 16
    """Of a training clip."""
    stride: int = 1
    """Frames of the file from one of them to the next."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < 2 or self.stride < 1:
            raise ConfigError(f"frames must be at least 2 and stride at least 1, got {self.frames} and {self.stride}.")
        if self.masked:
            raise ConfigError("masked is for pictures; clips have no masks.")


class ClipReferenceLoss(ReferenceLoss):
    """`ReferenceLoss` on clips, with noise as the model was trained with, or on single frames in stages that ask so."""

    backbone: AbstractVideoBackbone
    adapter: AbstractClipReference

    def _noise(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        noise = torch.randn(shape, generator=generator)
        return noise if len(shape) == 4 else with_common(noise, self.backbone.noise_share, generator)

    def _drawn(self, generator: torch.Generator) -> Pairs:
        pairs = super()._drawn(generator)
        if not self.adapter.still:
            return pairs
        frame = int(torch.randint(pairs.latents.shape[2], (), generator=generator))
        return dataclasses.replace(pairs, latents=pairs.latents[:, :, frame])
