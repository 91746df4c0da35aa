"""Errors by spatial frequency: what passes, what is weakened, and Parseval's sum."""

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.residual_filter import SuppressConfig, suppressed


def test_waves_below_and_above_the_cutoff() -> None:
    cells = torch.arange(8.0)
    flat = torch.ones(1, 1, 8, 8)
    slow = torch.cos(2 * torch.pi * cells / 8).expand(1, 1, 8, 8)  # a quarter of the highest frequency
    fast = (-1.0) ** cells.expand(1, 1, 8, 8)
    config = SuppressConfig(cutoff=0.5, keep=0.25)
    for wave, gain in ((flat, 1.0), (slow, 1.0), (fast, 0.25), (fast.transpose(2, 3), 0.25)):
        torch.testing.assert_close(suppressed(wave, config), gain * wave, atol=1e-6, rtol=1e-5)
    noise = torch.randn(2, 4, 8, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(suppressed(noise, SuppressConfig(keep=1.0)), noise, atol=1e-6, rtol=1e-5)
    halved = suppressed(noise, SuppressConfig(cutoff=0.0, keep=0.5))
    mean = noise.mean((2, 3), keepdim=True)
    torch.testing.assert_close(halved, mean + 0.5 * (noise - mean), atol=1e-6, rtol=1e-5)
    with pytest.raises(ConfigError, match=r"shares in \[0, 1\]"):
        SuppressConfig(keep=2.0)
