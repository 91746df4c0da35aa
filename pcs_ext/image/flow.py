"""The flow-matching forward process beside `noise`: straight lines from clean latents to noise, and their velocity."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from pcs_ext.errors import ConfigError
from pcs_ext.image.noise import NoiseSchedule, append_dims


@dataclasses.dataclass(frozen=True, kw_only=True)
class SigmaSampling:
    """A distribution over noise levels that training visits, before the schedule's shift."""

    kind: Literal["uniform", "logit_normal"] = "uniform"
    """`logit_normal`: the logistic function of a normal value (Esser et al. 2024, arXiv 2403.03206, eq. 19)."""
    mean: float = 0.0
    """Of the normal value; above 0 leans to noise."""
    std: float = 1.0
    """Of the normal value, above 0."""

    def draw(self, batch: int, generator: torch.Generator) -> Tensor:
        """`batch` levels in [0, 1], float32, from a CPU generator."""
        if self.kind == "uniform":
            return torch.rand(batch, generator=generator)
        return (self.mean + self.std * torch.randn(batch, generator=generator)).sigmoid()


def shift_sigmas(sigmas: Tensor, shift: float) -> Tensor:
    """shift s / (1 + (shift - 1) s): more of the levels at high noise for shift > 1 (arXiv 2403.03206, eq. 23).

    Args:
        sigmas: in [0, 1].
        shift: above 0; 1 changes nothing.
    """
    return shift * sigmas / (1 + (shift - 1) * sigmas)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlowSchedule(NoiseSchedule):
    """x_s = (1 - s) x_0 + s eps, s in [0, 1]; the denoiser predicts the velocity eps - x_0 (Lipman et al. 2022,
    arXiv 2210.02747; Liu et al. 2022, arXiv 2209.03003).

    A timestep is s T, whole or fractional, as diffusers hands it to these denoisers. Make one by `create`.
    `alphas_cumprod` is that of the variance-preserving schedule with the same signal-to-noise ratio at whole
    timesteps: for laws that speak of the ratio, and never for stepping.
    """

    shift: float
    """Of training levels and of sampling."""
    sampling: SigmaSampling
    """Levels that training visits, before the shift."""

    @classmethod
    def create(
        cls, *, shift: float = 1.0, num_train_timesteps: int = 1000, sampling: SigmaSampling | None = None
    ) -> "FlowSchedule":
        """A schedule from the numbers that a scheduler's configuration states.

        Raises:
            ConfigError: a shift that is not above 0.
        """
        if not shift > 0:
            raise ConfigError(f"the shift of a flow must be above 0, got {shift}.")
        # Half a step above zero, where the ratio would be infinite.
        levels = (torch.arange(num_train_timesteps, dtype=torch.float64) / num_train_timesteps).clamp_min(
            0.5 / num_train_timesteps
        )
        signal, noise = (1 - levels).square(), levels.square()
        return cls(
            alphas_cumprod=(signal / (signal + noise)).float(),
            prediction_type="flow_velocity",
            shift=shift,
            sampling=sampling or SigmaSampling(),
        )

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "FlowSchedule":
        """Read `scheduler_config.json` of diffusers' flow-matching schedulers, or of UniPC set to flows (Wan's).

        Raises:
            ConfigError: no flow, or a shift that depends on the size of the picture.
        """
        flow = "FlowMatch" in config.get("_class_name", "") or config.get("prediction_type") == "flow_prediction"
        if not flow:
            raise ConfigError(
                f"scheduler {config.get('_class_name')} is no flow-matching one; expected a FlowMatch scheduler or "
                "prediction_type 'flow_prediction'."
            )
        others = ("use_dynamic_shifting", "shift_terminal", "invert_sigmas", "use_karras_sigmas")
        others += ("use_exponential_sigmas", "use_beta_sigmas", "stochastic_sampling")
        if used := [key for key in others if config.get(key)]:
            raise ConfigError(f"the scheduler sets {', '.join(used)}; expected a flow with one fixed shift.")
        shift = config.get("shift", config.get("flow_shift", 1.0))
        return cls.create(shift=float(shift), num_train_timesteps=config.get("num_train_timesteps", 1000))

    def sigmas(self, timesteps: Tensor) -> Tensor:
        """Share of noise s at timesteps `b`, float32."""
        return timesteps.float() / self.num_train_timesteps

    def coefficients(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """1 - s and s for timesteps `b`, shaped to multiply `like`, in its dtype (>= fp32)."""
        sigmas = self.sigmas(timesteps).to(torch.promote_types(like.dtype, torch.float32))
        return append_dims(1 - sigmas, like), append_dims(sigmas, like)

    def draw_timesteps(self, batch: int, generator: torch.Generator) -> Tensor:
        """`batch` timesteps in [0, T], float32 on the CPU: levels of `sampling`, shifted."""
        return shift_sigmas(self.sampling.draw(batch, generator), self.shift) * self.num_train_timesteps

    def target(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The velocity eps - x_0, the same at every timestep."""
        return noise - latents

    def to_x0(self, prediction: Tensor, noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        """x_s - s v (float32 at least)."""
        _, sigma = self.coefficients(timesteps, noisy_latents)
        return noisy_latents - sigma * prediction

    def to_epsilon(self, prediction: Tensor, noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        """x_s + (1 - s) v (float32 at least)."""
        signal, _ = self.coefficients(timesteps, noisy_latents)
        return noisy_latents + signal * prediction

    def from_epsilon(self, epsilon: Tensor, noisy_latents: Tensor, timesteps: Tensor) -> Tensor:
        """Inverse of `to_epsilon`, for s < 1: at 1 nothing of the clean latents is left to tell."""
        signal, _ = self.coefficients(timesteps, noisy_latents)
        return (epsilon - noisy_latents) / signal

    def snr(self, timesteps: Tensor) -> Tensor:
        """((1 - s) / s)^2, `b`, float32; infinite at timestep 0."""
        sigmas = self.sigmas(timesteps)
        return ((1 - sigmas) / sigmas).square()

    def min_snr_weights(self, timesteps: Tensor, gamma: float) -> Tensor:
        """Loss weights of min-SNR-gamma, `b`: min(SNR, gamma) on x_0, whose error is s times the velocity's."""
        return self.snr(timesteps).clamp(max=gamma) * self.sigmas(timesteps).square()

    def euler(self, num_inference_steps: int, device: torch.device | str = "cpu") -> Any:
        """The sampler, a `FlowEuler` with its timesteps set."""
        scheduler = FlowEuler(num_train_timesteps=self.num_train_timesteps, shift=self.shift)
        scheduler.set_timesteps(num_inference_steps, device=device)
        return scheduler


class FlowEuler(FlowMatchEulerDiscreteScheduler):
    """diffusers' Euler steps along the flow, with the two members that the core's loop asks every scheduler for."""

    init_noise_sigma = 1.0
    """A flow starts at unit noise."""

    def scale_model_input(self, sample: Tensor, timestep: Tensor) -> Tensor:
        """The denoiser of a flow takes latents as they are."""
        return sample
