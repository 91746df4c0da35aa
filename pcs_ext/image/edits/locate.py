"""Where something that a prompt names is in a picture, by the base's own cross-attention."""

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, InputError
from pcs_ext.image.attention import AttentionMaps, attention_program
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
    growth: int = 0
    """Latent cells by which the mask is grown."""

    def __post_init__(self) -> None:
        if not self.timesteps or not all(0 <= t < 1 for t in self.timesteps) or self.draws < 1:
            raise ConfigError(
                f"timesteps {self.timesteps} or draws {self.draws} is out of range; expected shares in [0, 1), and 1 "
                "or more."
            )
        if (self.threshold is not None and not 0 < self.threshold < 1) or self.growth < 0:
            raise ConfigError(
                f"threshold {self.threshold} or growth {self.growth} is out of range; expected a share in (0, 1) or "
                "none, and 0 or more."
            )


@torch.no_grad()
def word_maps(
    backbone: AbstractBackbone, latents: Tensor, prompt: str, settings: LocateConfig, *, seed: int = 0
) -> Tensor:
    """Mean cross-attention maps `1 tokens h w`, of latent size, while a noised picture is denoised one step."""
    total = backbone.schedule.num_train_timesteps
    times = torch.tensor([int(share * total) for share in settings.timesteps]).repeat_interleave(settings.draws)
    noise = torch.randn(
        (len(times), *latents.shape[1:]), generator=generator_for(seed, "locate")
    )  # one draw per row, the same on every device
    noisy = backbone.schedule.add_noise(latents.float().expand_as(noise), noise.to(latents.device), times)
    conditioning = backbone.encode_prompt([prompt], size=_pixels(backbone, latents))[[0] * len(times)]
    maps = AttentionMaps(side=min(latents.shape[-2:]), size=(latents.shape[-2], latents.shape[-1]))
    with attention_program(backbone, maps):
        backbone.predict(noisy, times.to(backbone.device), conditioning)
    return maps.maps().mean(0, keepdim=True)


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
    return torch.nn.functional.interpolate(cells, size=picture.shape[-2:], mode="nearest").cpu()


def _pixels(backbone: AbstractBackbone, latents: Tensor) -> tuple[int, int]:
    return latents.shape[-2] * backbone.vae_factor, latents.shape[-1] * backbone.vae_factor
