"""Natural pictures have alike kurtosis in all band-pass versions (DiffNat, Roy et al. 2023, arXiv 2311.09753)."""

from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.terms.base import AbstractTerm, Step
from pcs_ext.image.wavelets import daubechies, detail_bands, kurtosis


@config
class KurtosisConfig:
    """Kurtosis concentration of the clean picture that the prediction implies: its largest less its smallest."""

    kind: Literal["kurtosis"] = "kurtosis"
    """Tag of this term in JSON."""
    orders: tuple[int, ...] = (1, 2, 3)
    """Daubechies wavelets; which ones the paper takes is not known here."""
    levels: int = 3
    """Scales of each: with three directions, nine bands per wavelet."""
    weight: float = 1e-3
    """The paper's is not known here. Kurtosis spreads over ten and more, so that this is near the denoising loss."""

    def __post_init__(self) -> None:
        if not self.orders or self.levels < 1:
            raise ConfigError(
                f"kurtosis takes at least one wavelet and one level, got {list(self.orders)} and {self.levels}."
            )
        for order in self.orders:
            daubechies(order)


class KurtosisTerm(AbstractTerm):
    """Mean over the batch of max - min over the bands; the picture is decoded with gradients, so memory rises.

    Bands are those of the mean of the three colours.
    """

    name = "kurtosis"

    def __init__(self, config: KurtosisConfig) -> None:
        self.config = config

    def __call__(self, step: Step) -> Tensor:
        asked, backbone = step.asked(), step.backbone
        assert step.prediction is not None, "this term looks at what the denoiser answered"
        clean = backbone.schedule.to_x0(step.prediction.float(), asked.latents.float(), asked.timesteps)
        pictures = backbone.decode_latents(clean.to(backbone.dtype)).float().mean(1)
        return self.config.weight * concentration(pictures, self.config.orders, self.config.levels).mean()


def concentration(pictures: Tensor, orders: tuple[int, ...], levels: int) -> Tensor:
    """Largest less smallest kurtosis of all bands, `b`, of gray pictures `b h w`."""
    # Fourth powers of small numbers: not in half precision.
    with torch.autocast(pictures.device.type, enabled=False):
        bands = [band for order in orders for band in detail_bands(pictures.float(), order, levels)]
        each = torch.stack([kurtosis(band) for band in bands])
    return each.amax(0) - each.amin(0)
