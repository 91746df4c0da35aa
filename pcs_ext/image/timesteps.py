"""Which noise levels training visits. Samplers draw `b` timesteps in [0, T) from a CPU generator."""

import math
from typing import Literal

import torch
from torch import Tensor

from pcs_ext.config_io import config


@config
class TimestepSampling:
    """A distribution over timesteps."""

    kind: Literal["uniform", "importance", "log_snr", "cubic"] = "uniform"
    """`importance`: p(t) ~ 1 - a cos(pi t / T) (ReVersion, arXiv 2303.13495, eq. 8); `log_snr`: normal log-SNR;
    `cubic`: t = (1 - u^3) T with u uniform, mostly coarse noise (recalled as T2I-Adapter's, arXiv
    2302.08453, section 3.5; not looked up)."""
    low: float = 0.0
    """Smallest t / T."""
    high: float = 1.0
    """Largest t / T (exclusive)."""
    strength: float = 0.5
    """`a` of `importance`, in [0, 1]."""
    mean: float = -6.0
    """Mean log-SNR of `log_snr` (style-friendly sampling, arXiv 2411.14793)."""
    std: float = 2.0
    """Spread of `log_snr`."""

    def draw(self, batch: int, alphas_cumprod: Tensor, generator: torch.Generator) -> Tensor:
        """`batch` timesteps, int64, CPU."""
        total = len(alphas_cumprod)
        first, last = math.floor(self.low * total), max(math.ceil(self.high * total), math.floor(self.low * total) + 1)
        if self.kind == "uniform":
            return torch.randint(first, min(last, total), (batch,), generator=generator)
        if self.kind == "cubic":
            shares = 1 - torch.rand(batch, generator=generator).pow(3)
            end = min(last, total)
            return (first + shares * (end - first)).long().clamp(max=end - 1)
        if self.kind == "log_snr":
            wanted = self.mean + self.std * torch.randn(batch, generator=generator)
            log_snr = (alphas_cumprod / (1 - alphas_cumprod)).log()
            return (log_snr[None] - wanted[:, None]).abs().argmin(1).clamp(first, min(last, total) - 1)
        weights = importance_weights(total, self.strength)
        weights[:first], weights[last:] = 0, 0
        return torch.multinomial(weights, batch, replacement=True, generator=generator)


def importance_weights(total: int, strength: float) -> Tensor:
    """p(t) proportional to 1 - a cos(pi t / T) over t = 0 .. T - 1, summing to 1, float64."""
    t = torch.arange(total, dtype=torch.float64)
    weights = 1 - strength * torch.cos(math.pi * t / total)
    return weights / weights.sum()
