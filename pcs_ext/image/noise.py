"""The forward process and the conversions between what a denoiser may predict. Pure functions of tensors."""

import dataclasses
from typing import Literal

import torch
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "flow_velocity"]
"""`flow_velocity` is what `flow.FlowSchedule` alone has."""


def append_dims(values: Tensor, like: Tensor) -> Tensor:
    """View `b` values as `b 1 1 ...` with the rank of `like`, so that one formula serves images and videos."""
    return values.reshape(values.shape[0], *([1] * (like.dim() - 1)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """A variance-preserving discrete schedule: x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps (DDPM, eq. 4)."""

    alphas_cumprod: Tensor
    """abar_t, `T` values in (0, 1), falling, float32 on the CPU."""
    prediction_type: PredictionType
    """What the denoiser outputs: eps, or v = sqrt(abar) eps - sqrt(1 - abar) x_0 (Salimans and Ho 2022, eq. 12)."""

    @property
    def num_train_timesteps(self) -> int:
        """T."""
        return self.alphas_cumprod.shape[0]

    def coefficients(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar_t) and sqrt(1 - abar_t) for timesteps `b`, shaped to multiply `like`, in its dtype (>= fp32)."""
        abar = self.alphas_cumprod.to(timesteps.device)[timesteps].to(torch.promote_types(like.dtype, torch.float32))
        return append_dims(abar.sqrt(), like), append_dims((1 - abar).sqrt(), like)

    def draw_timesteps(self, batch: int, generator: torch.Generator) -> Tensor:
        """`batch` timesteps that training visits, on the CPU: uniform, int64."""
        return torch.randint(self.num_train_timesteps, (batch,), generator=generator)

    def add_noise(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """x_t from x_0 and eps."""
        signal, sigma = self.coefficients(timesteps, latents)
        return (signal * latents + sigma * noise).to(latents.dtype)

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """What the denoiser should output for x_t made of `latents` and `noise`."""
        if self.prediction_type == "epsilon":
            return noise
        signal, sigma = self.coefficients(timesteps, latents)
        return (signal * noise - sigma * latents).to(latents.dtype)

    def to_x0(self, prediction: Tensor, noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        """The clean latents a prediction at x_t implies (float32 at least)."""
        signal, sigma = self.coefficients(timesteps, noisy_latents)
        if self.prediction_type == "epsilon":
            return (noisy_latents - sigma * prediction) / signal
        return signal * noisy_latents - sigma * prediction

    def to_epsilon(self, prediction: Tensor, noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        """The noise a prediction at x_t implies (float32 at least)."""
        if self.prediction_type == "epsilon":
            return prediction
        signal, sigma = self.coefficients(timesteps, noisy_latents)
        return signal * prediction + sigma * noisy_latents

    def from_epsilon(self, epsilon: Tensor, noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        """Inverse of `to_epsilon`: noise expressed in the schedule's prediction type."""
        if self.prediction_type == "epsilon":
            return epsilon
        signal, sigma = self.coefficients(timesteps, noisy_latents)
        return (epsilon - sigma * noisy_latents) / signal

    def snr(self, timesteps: Tensor) -> Tensor:
        """Signal-to-noise ratio abar / (1 - abar), `b`, float32."""
        abar = self.alphas_cumprod.to(timesteps.device)[timesteps]
        return abar / (1 - abar)

    def min_snr_weights(self, timesteps: Tensor, gamma: float) -> Tensor:
        """Loss weights of min-SNR-gamma (Hang et al. 2023, arXiv 2303.09556), `b`.

        min(SNR, gamma) / SNR for epsilon, min(SNR, gamma) / (SNR + 1) for v.
        """
        snr = self.snr(timesteps)
        denominator = snr if self.prediction_type == "epsilon" else snr + 1
        return snr.clamp(max=gamma) / denominator
