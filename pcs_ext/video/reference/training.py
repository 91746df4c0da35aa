"""The loss by which adapters learn that show clip models photos: the model denoises a clip beside the pictures."""

import dataclasses

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.flow import FlowSchedule
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.training import ReferenceLoss, ReferenceSchedule
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.noise import with_common
from pcs_ext.video.reference.base import AbstractClipReference, ShownWithLatents
from pcs_ext.video.reference.directions import Directions
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
    frozen: float = 0.0
    """Share of clips that are one of their frames all the time: what standing still looks like."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frames < 2 or self.stride < 1:
            raise ConfigError(f"frames must be at least 2 and stride at least 1, got {self.frames} and {self.stride}.")
        if not 0 <= self.frozen <= 1:
            raise ConfigError(f"frozen must be a share, got {self.frozen}.")


class ClipReferenceLoss(ReferenceLoss):
    """`ReferenceLoss` on clips, with noise as the model was trained with, or on single frames in stages that ask so."""

    backbone: AbstractVideoBackbone
    adapter: AbstractClipReference

    def _evenly(self, batch: int, generator: torch.Generator) -> Tensor:
        schedule = self.backbone.schedule
        if isinstance(schedule, FlowSchedule):
            return schedule.draw_timesteps(batch, generator)
        return super()._evenly(batch, generator)

    def _noise(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        noise = torch.randn(shape, generator=generator)
        return noise if len(shape) == 4 else with_common(noise, self.backbone.noise_share, generator)

    def _drawn(self, generator: torch.Generator) -> Pairs:
        pairs = super()._drawn(generator)
        shown, share = pairs.shown, self.adapter.still_share
        assert isinstance(shown, ShownWithLatents)
        if self.adapter.still or (share > 0 and float(torch.rand((), generator=generator)) < share):
            frame = int(torch.randint(pairs.latents.shape[2], (), generator=generator))
            told = None if shown.directions is None else shown.directions.frame(frame)
            pairs = dataclasses.replace(pairs, latents=pairs.latents[:, :, frame])
            shown = dataclasses.replace(shown, directions=told)
        weights = None if shown.directions is None else self._weights(shown.directions, generator)
        if weights is not None and pairs.latents.dim() == 4:
            weights = weights[:, :, 0]
        return dataclasses.replace(pairs, shown=self.adapter.prepared(shown, generator), weights=weights)

    def _weights(self, directions: Directions, generator: torch.Generator) -> Tensor | None:
        """Of latent cells: the adapter's own, or, in the share that is `masked`, of the subject's alone."""
        own, cover = self.adapter.weights(directions), directions.cover
        if cover is None or self.settings.masked == 0:
            return own
        # Errors inside over the mask's mass (ConsisID's released loss, there of a whole batch together); a subject
        # that is not there counts nothing.
        inside = cover / cover.mean((1, 2, 3), keepdim=True).clamp_min(1e-6)
        chosen = torch.rand(len(cover), generator=generator) < self.settings.masked
        everywhere = torch.ones_like(inside) if own is None else own[:, 0]
        return torch.where(chosen[:, None, None, None], inside, everywhere).unsqueeze(1)
