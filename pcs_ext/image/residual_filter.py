"""Fine detail of the denoiser's errors that counts less (Inv-ReVersion, Appl. Sci. 2024, 14, 3338)."""

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError


@config
class SuppressConfig:
    """Spatial frequencies of the errors above a cutoff, weakened."""

    cutoff: float = 0.5
    """In [0, 1]: 1 is the highest frequency along an axis (half a cycle per latent cell)."""
    keep: float = 0.5
    """What amplitudes above it are multiplied by, in [0, 1]; 1 changes nothing."""

    def __post_init__(self) -> None:
        if not (0 <= self.cutoff <= 1 and 0 <= self.keep <= 1):
            raise ConfigError(f"cutoff and keep are shares in [0, 1], got {self.cutoff} and {self.keep}.")


def suppressed(residual: Tensor, config: SuppressConfig) -> Tensor:
    """A residual `... h w` whose frequencies beyond the cutoff's circle are weakened, float32. Differentiable."""
    height, width = residual.shape[-2:]
    rows, columns = torch.fft.fftfreq(height) * 2, torch.fft.rfftfreq(width) * 2
    radius = (rows[:, None].square() + columns[None].square()).sqrt().to(residual.device)
    gains = torch.where(radius > config.cutoff, config.keep, 1.0)
    return torch.fft.irfft2(torch.fft.rfft2(residual.float()) * gains, s=(height, width))
