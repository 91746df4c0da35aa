"""The schedule's formulas against diffusers and against each other."""

from typing import Any

import pytest
import torch
from diffusers import DDPMScheduler

from pcs_ext.image.noise import NoiseSchedule
from pcs_ext.image.timesteps import TimestepSampling, importance_weights


def make(prediction_type: Any) -> tuple[NoiseSchedule, Any]:
    reference = DDPMScheduler(beta_schedule="scaled_linear", prediction_type=prediction_type)
    return NoiseSchedule(alphas_cumprod=reference.alphas_cumprod, prediction_type=prediction_type), reference


@pytest.mark.parametrize("shape", [(4, 3, 8, 8), (4, 3, 5, 8, 8)])
def test_forward_process_and_velocity_equal_diffusers(shape: tuple[int, ...]) -> None:
    schedule, reference = make("v_prediction")
    clean, noise, t = torch.randn(shape), torch.randn(shape), torch.tensor([0, 10, 500, 999])
    torch.testing.assert_close(schedule.add_noise(clean, noise, t), reference.add_noise(clean, noise, t))
    torch.testing.assert_close(schedule.target(clean, noise, t), reference.get_velocity(clean, noise, t))


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_perfect_prediction_gives_back_image_and_noise(kind: str) -> None:
    schedule, _ = make(kind)
    clean, noise = torch.randn(3, 4, 8, 8).double(), torch.randn(3, 4, 8, 8).double()
    t = torch.tensor([1, 400, 900])
    noisy, target = schedule.add_noise(clean, noise, t), schedule.target(clean, noise, t)
    torch.testing.assert_close(schedule.to_x0(target, noisy, t), clean, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(schedule.to_epsilon(target, noisy, t), noise, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(schedule.from_epsilon(noise, noisy, t), target, atol=1e-4, rtol=1e-4)


def test_min_snr_weights_by_hand() -> None:
    abar = torch.tensor([0.9, 0.5])
    t = torch.tensor([0, 1])
    # SNR is 9 and 1; gamma 5 caps the first.
    epsilon = NoiseSchedule(alphas_cumprod=abar, prediction_type="epsilon").min_snr_weights(t, 5.0)
    velocity = NoiseSchedule(alphas_cumprod=abar, prediction_type="v_prediction").min_snr_weights(t, 5.0)
    torch.testing.assert_close(epsilon, torch.tensor([5 / 9, 1.0]))
    torch.testing.assert_close(velocity, torch.tensor([0.5, 0.5]))


def test_importance_sampling_has_the_published_moments() -> None:
    weights = importance_weights(1000, 0.5)
    t = torch.arange(1000, dtype=torch.float64)
    assert float((weights * t).sum()) == pytest.approx(600.87, abs=0.02)
    assert float(weights[500:].sum()) == pytest.approx(0.6592, abs=1e-4)


def test_cubic_timesteps_are_mostly_coarse() -> None:
    schedule, _ = make("epsilon")
    drawn = TimestepSampling(kind="cubic").draw(20_000, schedule.alphas_cumprod, torch.Generator().manual_seed(0))
    total = schedule.num_train_timesteps
    # E[1 - u^3] = 3/4; P(1 - u^3 > 1/2) = (1/2)^(1/3).
    assert float(drawn.double().mean()) / total == pytest.approx(0.75, abs=0.005)
    assert float((drawn >= total / 2).double().mean()) == pytest.approx(0.5 ** (1 / 3), abs=0.01)


@pytest.mark.parametrize("kind", ["uniform", "importance", "log_snr", "cubic"])
def test_samplers_stay_in_their_range_and_repeat(kind: str) -> None:
    schedule, _ = make("epsilon")
    sampling = TimestepSampling(kind=kind, low=0.2, high=0.7)  # type: ignore[arg-type]
    first, second = (sampling.draw(400, schedule.alphas_cumprod, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.min() >= 200
    assert first.max() < 700
