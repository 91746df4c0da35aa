"""Where something that a prompt names is in a picture, by the base's own cross-attention."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, InputError
from pcs_ext.image.attention import AttentionMaps, attention_program, path_grid, self_attention_paths
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.masks import attended, grown
from pcs_ext.image.phrases import phrase_positions
from pcs_ext.runtime import generator_for


@config
class LocateConfig:
    """How a word's place is read."""

    timesteps: tuple[float, ...] = (0.35, 0.5, 0.65)
    """Shares of the noise schedule, in [0, 1), at which the noised picture is shown to the denoiser."""
    draws: int = 4
    """Noise draws at each."""
    threshold: float | None = None
    """Cells above this share of the map's range are inside, in (0, 1); None: Otsu's threshold (as in ViCo)."""
    spread: int = 2
    """How often the map passes through the denoiser's self-attention, which brings a word from the parts that it looks
    at to the whole thing (ours, see docs/LOG.md); 0 leaves maps as they are."""
    cells: int = 1024
    """Of the finest self-attentions used for that, at most (their maps have the square of it)."""
    growth: int = 0
    """Latent cells by which the mask is grown."""

    def __post_init__(self) -> None:
        if not self.timesteps or not all(0 <= t < 1 for t in self.timesteps) or self.draws < 1:
            raise ConfigError(
                f"timesteps {self.timesteps} or draws {self.draws} is out of range; expected shares in [0, 1), and 1 "
                "or more."
            )
        if (
            (self.threshold is not None and not 0 < self.threshold < 1)
            or min(self.growth, self.spread) < 0
            or self.cells < 1
        ):
            raise ConfigError(
                f"threshold {self.threshold}, growth {self.growth}, spread {self.spread} or cells {self.cells} is out "
                "of range; expected a share in (0, 1) or none, 0 or more, 0 or more, and 1 or more."
            )


@torch.no_grad()
def word_maps(
    backbone: AbstractBackbone, latents: Tensor, prompt: str, settings: LocateConfig, *, seed: int = 0
) -> Tensor:
    """Mean cross-attention maps `1 tokens h w`, of latent size, while a noised picture is denoised one step.

    They are spread by the mean self-attention of the finest layers with at most `settings.cells` cells.
    """
    total = backbone.schedule.num_train_timesteps
    times = torch.tensor([int(share * total) for share in settings.timesteps], device=backbone.device)
    times = times.repeat_interleave(settings.draws)
    noise = torch.randn(
        (len(times), *latents.shape[1:]), generator=generator_for(seed, "locate")
    )  # one draw per row, the same on every device
    noisy = backbone.schedule.add_noise(latents.float().expand_as(noise), noise.to(latents.device), times)
    conditioning = backbone.encode_prompt([prompt], size=_pixels(backbone, latents))[[0] * len(times)]
    size = (latents.shape[-2], latents.shape[-1])
    maps, affinity = AttentionMaps(side=min(size), size=size), _Affinity()
    paths, grid = _finest(backbone, size, settings.cells)
    with attention_program(backbone, maps), attention_program(backbone, affinity, paths if settings.spread else ()):
        backbone.predict(noisy, times, conditioning)
    mean = maps.maps().mean(0, keepdim=True)
    if not settings.spread or not paths:
        return mean
    coarse = F.interpolate(mean, size=grid, mode="area").flatten(2)[0].T  # cells tokens
    for _ in range(settings.spread):
        coarse = affinity.mean() @ coarse
    return F.interpolate(coarse.T.unflatten(1, grid)[None], size=size, mode="bilinear")


class _Affinity:
    """A program that averages self-attention maps over batch, heads and layers of one size."""

    def __init__(self) -> None:
        self._sum: Tensor | float = 0.0
        self._calls = 0

    def __call__(self, path: str, probabilities: Tensor) -> Tensor:
        self._sum = self._sum + probabilities.float().mean((0, 1))
        self._calls += 1
        return probabilities

    def mean(self) -> Tensor:
        """`cells cells`, rows summing to 1."""
        assert isinstance(self._sum, Tensor), "no self-attention was seen"
        return self._sum / self._calls


def _finest(backbone: AbstractBackbone, size: tuple[int, int], cells: int) -> tuple[tuple[str, ...], tuple[int, int]]:
    """The self-attentions of the largest grid with at most so many cells, and that grid."""
    grids = {path: path_grid(backbone, path, size) for path in self_attention_paths(backbone)}
    grid = max((g for g in grids.values() if g[0] * g[1] <= cells), default=(0, 0))
    return tuple(path for path, own in grids.items() if own == grid), grid


def locate(
    backbone: AbstractBackbone,
    picture: Tensor,
    prompt: str,
    phrase: str,
    settings: LocateConfig | None = None,
    *,
    seed: int = 0,
) -> Tensor:
    """A mask `1 1 h w` of zeros and ones, of the picture's size, where the denoiser looks for a phrase.

    Args:
        backbone: whose sides of latents the picture fits.
        picture: `1 3 h w` in [-1, 1].
        prompt: describes the picture.
        phrase: words of it.
        settings: how.
        seed: of the noise.

    Raises:
        UsageError: the phrase does not stand in the prompt.
        InputError: nothing stands out.
    """
    settings = settings or LocateConfig()
    positions = phrase_positions(backbone, prompt, phrase)
    with torch.no_grad():
        latents = backbone.encode_images(picture.to(backbone.device, backbone.dtype)).float()
    maps = word_maps(backbone, latents, prompt, settings, seed=seed)
    cells = grown(attended(maps, positions, settings.threshold), settings.growth)
    if not cells.any() or cells.all():
        raise InputError(f"attention finds no {phrase} apart from its background; give a mask of it.")
    return F.interpolate(cells, size=picture.shape[-2:], mode="nearest").cpu()


def _pixels(backbone: AbstractBackbone, latents: Tensor) -> tuple[int, int]:
    return latents.shape[-2] * backbone.vae_factor, latents.shape[-1] * backbone.vae_factor
