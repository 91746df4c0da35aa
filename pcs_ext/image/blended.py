"""What is known of a picture, put back after every step (blended diffusion, Avrahami et al. 2021, arXiv 2111.14818).

So any base fills in the rest, not only one that was trained to inpaint.
"""

import torch
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.sample import SampleConfig, Sampling, initial_noise


class PutBack:
    """Keeps cells of latents at a picture's, noised as much as the rest is at the time.

    Its methods are hooks: `started` and `on_step` of `SampleHooks`. A picture's noise is that of its own seed, the same
    in every step; after the last step the cells are the known ones, bit for bit.

    Args:
        backbone: draws.
        known: clean latents, `1 c h w` or one per picture of a batch.
        free: `1 1 h w`, above 0 where the picture is drawn.
        config: of the sampling.
    """

    def __init__(self, backbone: AbstractBackbone, known: Tensor, free: Tensor, config: SampleConfig) -> None:
        self.backbone, self.known, self.free, self.config = backbone, known, free, config
        self._sampling: Sampling | None = None

    def started(self, sampling: Sampling) -> None:
        """Hears which batch is sampled, and by what scheduler."""
        self._sampling = sampling

    def on_step(self, step: int, timestep: Tensor, latents: Tensor) -> Tensor:
        """`b c h w` after a step, with the known cells at the noise level of the next."""
        assert self._sampling is not None, "put `started` among the hooks, too"
        scheduler, seeds = self._sampling.scheduler, self._sampling.seeds
        around = self.known.expand_as(latents)
        if step + 1 < len(scheduler.timesteps):
            noise = initial_noise(self.backbone, seeds, self.config).to(latents)
            around = scheduler.add_noise(around, noise, scheduler.timesteps[step + 1].expand(len(latents)))
        return torch.where(self.free > 0, latents, around.to(latents))
