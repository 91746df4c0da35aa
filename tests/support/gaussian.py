"""A diffusion model whose data are Gaussian: its optimal denoiser is known and linear."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.noise import NoiseSchedule
from pcs_ext.image.types import Conditioning


class GaussianBackbone(AbstractBackbone):
    """Latents are N(mean, variance) under any prompt; the encoder is a linear map of colours, float64."""

    def __init__(self, mean: float = 0.3, variance: float = 0.04) -> None:
        self.name, self.family = "gaussian", "sd"
        self.denoiser = self.vae = None
        self.text_encoders = self.tokenizers = ()
        self.schedule = NoiseSchedule(alphas_cumprod=torch.linspace(0.9999, 0.005, 1000), prediction_type="epsilon")
        self.resolution, self.vae_factor, self.latent_channels = 8, 1, 3
        self.device, self.dtype = torch.device("cpu"), torch.float64
        self.mean, self.variance = mean, variance
        self.mixing = torch.tensor([[0.9, 0.2, 0.0], [0.0, 1.1, -0.1], [0.3, 0.0, 0.8]], dtype=torch.float64)

    @property
    def fingerprint(self) -> str:
        """See the base class."""
        return "0" * 16

    def encode_images(self, images: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See the base class."""
        return torch.einsum("ij,bjhw->bihw", self.mixing.to(images), images)

    def encode_posterior(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See the base class."""
        latents = self.encode_images(images)
        return latents, torch.zeros_like(latents)

    def decode_latents(self, latents: Tensor) -> Tensor:
        """See the base class."""
        return torch.einsum("ij,bjhw->bihw", torch.linalg.inv(self.mixing).to(latents), latents)

    def encode_prompt(self, prompts: Sequence[str], *, size: tuple[int, int] | None = None) -> Conditioning:
        """The prompt's length, as its only state."""
        return Conditioning(states=torch.tensor([[[float(len(prompt))]] for prompt in prompts]))

    def predict(self, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """The conditional mean of the noise; an empty prompt's data have mean 0."""
        signal, sigma = self.schedule.coefficients(timesteps, noisy_latents)
        mean = self.mean * (conditioning.states[:, :, :, None] > 0).to(noisy_latents)
        return sigma * (noisy_latents - signal * mean) / (signal**2 * self.variance + sigma**2)

    def token_count(self, prompt: str) -> int:
        """See the base class."""
        return len(prompt.split())

    def cross_attention_paths(self) -> tuple[str, ...]:
        """See the base class."""
        return ()
