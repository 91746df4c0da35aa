"""Sizes of toybox's models and data. Another resolution is another value here, no other code."""

import dataclasses
from pathlib import Path

from pcs_ext.config_io import config
from pcs_ext.runtime import cache_folder


@config
class Settings:
    """One generation of toybox."""

    resolution: int = 64
    """Side of the images in pixels."""
    vae_factor: int = 4
    """Pixels per latent cell and side; resolution / vae_factor is 16 in every generation."""
    scenes: int = 32_000
    """Rendered training scenes."""
    data_seed: int = 1
    """Of the training scenes; held-out scenes use other streams."""
    text_width: int = 192
    """Width of the text encoder and of the denoiser's cross-attention."""
    text_layers: int = 4
    """Depth of the text encoder."""
    unet_channels: tuple[int, ...] = (64, 128, 192)
    """Denoiser channels by level (16, 8 and 4 cells per side)."""
    vae_channels: tuple[int, ...] = (32, 64, 128)
    """Autoencoder channels by level; one level more than log2(vae_factor)."""
    device: str = "cpu"
    """Where to train."""
    batches: int = 1
    """Sizes of the stages' batches, times those for two cores of a CPU."""
    processes: int = 1
    """That render beside each other."""

    @property
    def folder(self) -> Path:
        """Rendered data and checkpoints."""
        return cache_folder() / f"toybox-{self.resolution}"


CPU = Settings()
GPU = dataclasses.replace(
    CPU,
    resolution=128,
    vae_factor=8,
    scenes=400_000,
    unet_channels=(96, 192, 320),
    vae_channels=(48, 96, 128, 128),
    device="cuda",
    batches=32,
    processes=14,
)
SMALL_GPU = dataclasses.replace(CPU, scenes=160_000, device="cuda", batches=32, processes=14)
"""The geometry that ships, from a GPU: more scenes, larger batches."""
PRESETS = {"cpu": CPU, "gpu": GPU, "small-gpu": SMALL_GPU}
