"""Another protagonist in a clip, inside a mask alone (Make-A-Protagonist, Zhao et al. 2023, arXiv 2305.08850)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.masks import cells_of
from pcs_ext.image.sample import Predict
from pcs_ext.image.types import Conditioning


@config
class FusionConfig:
    """How what is new and what is kept are put together, over which part of the denoising."""

    predictions: bool = True
    """Every step's prediction is that of the new prompt inside the mask, and that of the clip's own prompt, without the
    subject, outside."""
    latents: bool = True
    """After every step the clip's own inverted latents are put back outside the mask: what is kept stays as it was."""
    until: float = 1.0
    """Share of the steps, from the first, in which masks count; in (0, 1]. Later ones see the whole clip."""

    def __post_init__(self) -> None:
        if not 0 < self.until <= 1:
            raise ConfigError(f"until is a share of the steps in (0, 1], got {self.until}.")


def fused(new: Tensor, kept: Tensor, mask: Tensor) -> Tensor:
    """`mask * new + (1 - mask) * kept`, bit for bit one of them where the mask is 1 or 0.

    Args:
        new, kept: `b c f h w`.
        mask: `1 1 f h w` in [0, 1].
    """
    mask = mask.to(new)
    return torch.where(mask == 1, new, torch.where(mask == 0, kept.to(new), torch.lerp(kept.to(new), new, mask)))


def clip_mask(frames: Tensor, factor: int, count: int) -> Tensor:
    """A mask clip, white where the new protagonist may be, in latent cells: `1 1 count h w` of zeros and ones.

    Args:
        frames: `f 3 h w` uint8; one frame is taken for all.
        factor: pixels per cell; a cell counts when any of its pixels is white.
        count: frames of the clip.
    """
    white = cells_of(frames.float().mean(1, keepdim=True) / 255, factor)
    return white.expand(count, -1, -1, -1).transpose(0, 1)[None] if len(white) == 1 else white.transpose(0, 1)[None]


class MaskFusion:
    """The two places where a mask reaches into the sampling loop.

    Args:
        config: how.
        mask: `1 1 f h w`, 1 where the clip changes.
        trajectory: the kept clip's latents at every timestep that sampling visits, cleanest first, `1 c f h w` each
            (`image.inversion.invert`).
        source: conditioning of the kept clip's prompt, without the subject.
        negative: of what guidance goes away from.
        without_subject: calls a function with the subject at strength 0.
    """

    def __init__(
        self,
        config: FusionConfig,
        mask: Tensor,
        trajectory: Sequence[Tensor],
        source: Conditioning,
        negative: Conditioning,
        without_subject: Callable[[Callable[[], Tensor]], Tensor],
    ) -> None:
        self.config, self.mask, self.trajectory = config, mask, trajectory
        self.source, self.negative, self.without_subject = source, negative, without_subject
        self.steps = len(trajectory) - 1
        self._step = 0

    @property
    def _counts(self) -> bool:
        return self._step < self.config.until * self.steps

    def wrap(self, inner: Predict) -> Predict:
        """The denoiser whose predictions are fused, from the first step on: a clip may be sampled several times."""
        self._step = 0

        def predict(latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            new = inner(latents, timesteps, conditioning)
            if not (self.config.predictions and self._counts):
                return new
            rows = self.source.batch_size
            away = self.negative[torch.zeros(rows, dtype=torch.long)]
            kept = Conditioning.cat([away, self.source]) if len(latents) == 2 else self.source
            return fused(new, self.without_subject(lambda: inner(latents, timesteps, kept)), self.mask)

        return predict

    def on_step(self, step: int, timestep: Tensor, latents: Tensor) -> Tensor:
        """Latents after a step, with what is kept put back."""
        counted = self._counts
        self._step = step + 1
        if not (self.config.latents and counted):
            return latents
        return fused(latents, self.trajectory[self.steps - 1 - step].to(latents), self.mask)
