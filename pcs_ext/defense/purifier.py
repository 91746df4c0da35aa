"""Purification by diffusion: a little noise over the photo, and the model takes it away, perturbation included.

DiffPure (Nie et al. 2022, arXiv 2205.07460) noises the whole picture once and denoises it step by step; GrIDPure (Zhao
et al. 2024, arXiv 2312.00084) does so with very little noise, in overlapping windows, over and over. Differs from both:
they run an unconditional diffusion model on pixels, here any latent diffusion model of the core does it with an empty
prompt, so that each window also passes through its autoencoder once per round.
"""

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.defense.canvas import Views
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.levels import levels_of, pixels_of
from pcs_ext.runtime import generator_for

_WINDOWS = 8
"""Denoised together."""


@config
class Purifier:
    """Noise and denoise, in windows of the base's training size."""

    kind: Literal["purifier"] = "purifier"
    id: str
    """Name in tables."""
    zoom: float
    """Shorter side of the photo while it is purified, in windows, at least 1; the result stays at that size. GrIDPure:
    2 (photos of 512 pixels, windows of 256)."""
    overlap: float = 0.5
    """Of neighbouring windows, as a share of their side, in [0, 1). GrIDPure: 1/2 (stride 128)."""
    timestep: int
    """How far up the noise schedule, at least 1. GrIDPure: 10; DiffPure: 100 to 150 of 1000."""
    steps: int
    """Denoiser evaluations on the way down, at most `timestep`."""
    rounds: int = 1
    """Times that all is repeated. GrIDPure: 10."""
    kept: float = 0.0
    """Share of the picture before a round that is blended into its result, in [0, 1). GrIDPure's gamma: 0.1."""

    def __post_init__(self) -> None:
        if self.zoom < 1 or not 0 <= self.overlap < 1 or not 0 <= self.kept < 1:
            raise ConfigError(
                f"a purifier needs zoom of at least 1, overlap and kept in [0, 1), got {self.zoom:g}, "
                f"{self.overlap:g} and {self.kept:g}."
            )
        if not 1 <= self.steps <= self.timestep or self.rounds < 1:
            raise ConfigError(
                f"a purifier needs 1 <= steps <= timestep and at least one round, got {self.steps} steps, timestep "
                f"{self.timestep} and {self.rounds} rounds."
            )

    @property
    def name(self) -> str:
        """Its id."""
        return self.id

    def apply(
        self, photos: Sequence[Tensor], *, clean: Sequence[Tensor], backbone: AbstractBackbone, seed: int
    ) -> list[Tensor]:
        """Photos uint8 `3 h w` -> purified ones, their shorter side `zoom` training sizes. Noise is drawn per photo,
        round and window from `seed`, the same for photos that share a place in the list."""
        return [self._purified(photo, backbone, (seed, "purify", index)) for index, photo in enumerate(photos)]

    @torch.no_grad()
    def _purified(self, photo: Tensor, backbone: AbstractBackbone, key: tuple[int | str, ...]) -> Tensor:
        picture = _fitted(photo, round(self.zoom * backbone.resolution))
        squares = Views(zooms=(self.zoom,), overlap=self.overlap).squares(*picture.shape[1:])
        for number in range(self.rounds):
            total, weight = torch.zeros_like(picture), torch.zeros_like(picture[:1])
            generator = generator_for(*key, number)
            for first in range(0, len(squares), _WINDOWS):
                some = squares[first : first + _WINDOWS]
                places = [(slice(s.top, s.top + s.side), slice(s.left, s.left + s.side)) for s in some]
                windows = torch.stack([picture[:, rows, columns] for rows, columns in places])
                for (rows, columns), window in zip(places, self._diffused(windows, backbone, generator), strict=True):
                    total[:, rows, columns] += window
                    weight[:, rows, columns] += 1
            picture = (1 - self.kept) * (total / weight) + self.kept * picture
        return levels_of(picture)

    def _diffused(self, windows: Tensor, backbone: AbstractBackbone, generator: torch.Generator) -> Tensor:
        """Windows `b 3 s s` in [-1, 1] after noise up to `timestep` and ancestral sampling down, on the CPU."""
        schedule, count, size = backbone.schedule, len(windows), (windows.shape[-2], windows.shape[-1])
        latents = backbone.encode_images(windows.to(backbone.device, backbone.dtype)).float()
        empty = backbone.encode_prompt([""] * count, size=size)

        def noise() -> Tensor:
            return torch.randn(latents.shape, generator=generator).to(latents.device)

        top = min(self.timestep, schedule.num_train_timesteps - 1)
        visited = [round(top * (1 - index / self.steps)) for index in range(self.steps + 1)]
        noisy = schedule.add_noise(latents, noise(), torch.full((count,), top, device=latents.device))
        for higher, lower in itertools.pairwise(visited):
            timesteps = torch.full((count,), higher, device=noisy.device)
            clean = schedule.to_x0(backbone.predict(noisy, timesteps, empty).float(), noisy, timesteps)
            noisy = clean if lower == 0 else _ancestor(noisy, clean, schedule.alphas_cumprod, higher, lower, noise())
        return backbone.decode_latents(noisy).float().cpu().clamp(-1, 1)


def _ancestor(noisy: Tensor, clean: Tensor, alphas_cumprod: Tensor, higher: int, lower: int, noise: Tensor) -> Tensor:
    """A draw from q(x_lower | x_higher, x_0) (DDPM, arXiv 2006.11239, eq. 7, for steps of any length)."""
    above, below = float(alphas_cumprod[higher]), float(alphas_cumprod[lower])
    step = above / below
    mean = (below**0.5 * (1 - step) * clean + step**0.5 * (1 - below) * noisy) / (1 - above)
    return mean + ((1 - below) / (1 - above) * (1 - step)) ** 0.5 * noise


def _fitted(photo: Tensor, short: int) -> Tensor:
    """The photo in [-1, 1], its shorter side resized to `short`."""
    scale = short / min(photo.shape[1:])
    size = tuple(max(short, round(side * scale)) for side in photo.shape[1:])
    image = pixels_of(photo[None])
    if size != tuple(photo.shape[1:]):
        image = F.interpolate(image, size=size, mode="bicubic", antialias=True, align_corners=False)
    return image[0].clamp(-1, 1)
