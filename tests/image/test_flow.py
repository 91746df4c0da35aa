"""The flow family by hand-computed numbers, and its sampler against diffusers'."""

import math
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from pcs_ext.errors import ConfigError
from pcs_ext.image.flow import FlowSchedule, SigmaSampling, shift_sigmas


def test_the_process_by_hand() -> None:
    flow = FlowSchedule.create()
    clean, noise, timesteps = torch.tensor([[2.0]]), torch.tensor([[-1.0]]), torch.tensor([250])
    noisy = flow.add_noise(clean, noise, timesteps)
    torch.testing.assert_close(noisy, torch.tensor([[0.75 * 2 - 0.25]]))
    velocity = flow.target(clean, noise, timesteps)
    assert velocity.item() == -3.0
    torch.testing.assert_close(flow.to_x0(velocity, noisy, timesteps), clean)
    torch.testing.assert_close(flow.to_epsilon(velocity, noisy, timesteps), noise)
    torch.testing.assert_close(flow.from_epsilon(noise, noisy, timesteps), velocity)
    assert flow.snr(timesteps).item() == pytest.approx(9.0)
    # The error of x_0 is s times that of the velocity: min(9, 5) / 16.
    assert flow.min_snr_weights(timesteps, 5.0).item() == pytest.approx(5 / 16)


def test_the_equal_variance_preserving_schedule_has_the_same_ratio() -> None:
    flow = FlowSchedule.create(num_train_timesteps=100)
    abar = flow.alphas_cumprod[1:]
    torch.testing.assert_close(abar / (1 - abar), flow.snr(torch.arange(1, 100)), rtol=1e-3, atol=1e-6)
    assert (flow.alphas_cumprod.diff() < 0).all()
    assert flow.alphas_cumprod.min() > 0
    assert flow.alphas_cumprod.max() < 1


def test_shift_by_hand() -> None:
    levels = torch.tensor([0.0, 0.5, 1.0])
    torch.testing.assert_close(shift_sigmas(levels, 3.0), torch.tensor([0.0, 0.75, 1.0]))
    assert torch.equal(shift_sigmas(levels, 1.0), levels)


@pytest.mark.parametrize(
    ("sampling", "quartiles"),
    [
        (SigmaSampling(), (0.25, 0.5, 0.75)),
        # The logistic function of the quartiles of a normal value.
        (SigmaSampling(kind="logit_normal"), tuple(1 / (1 + math.exp(-z)) for z in (-0.6745, 0.0, 0.6745))),
    ],
)
def test_training_levels_follow_their_law_and_the_shift(
    sampling: SigmaSampling, quartiles: tuple[float, float, float]
) -> None:
    flow = FlowSchedule.create(shift=3.0, sampling=sampling)
    drawn = flow.draw_timesteps(20_000, torch.Generator().manual_seed(0))
    assert drawn.min() >= 0
    assert drawn.max() <= 1000
    expected = shift_sigmas(torch.tensor(quartiles), 3.0) * 1000
    torch.testing.assert_close(drawn.quantile(torch.tensor([0.25, 0.5, 0.75])), expected, atol=12.0, rtol=0)


def test_steps_are_those_of_diffusers_and_a_straight_line_needs_one() -> None:
    flow = FlowSchedule.create(shift=3.0)
    theirs: Any = FlowMatchEulerDiscreteScheduler(shift=3.0)
    ours = flow.euler(5)
    theirs.set_timesteps(5)
    assert torch.equal(ours.timesteps, theirs.timesteps)
    assert torch.equal(ours.sigmas, theirs.sigmas)
    clean, noise = torch.randn(2, 3), torch.randn(2, 3)
    for steps in (1, 7):
        scheduler, latents = flow.euler(steps), noise
        for timestep in scheduler.timesteps:
            velocity = flow.target(clean, noise, timestep.expand(2))
            latents = scheduler.step(velocity, timestep, latents).prev_sample
        torch.testing.assert_close(latents, clean)


def test_configurations_are_read_or_refused() -> None:
    wan = {"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction", "flow_shift": 5.0}
    assert FlowSchedule.from_config(wan).shift == 5.0
    euler = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0, "num_train_timesteps": 500}
    assert FlowSchedule.from_config(euler).num_train_timesteps == 500
    with pytest.raises(ConfigError, match="is no flow-matching one"):
        FlowSchedule.from_config({"_class_name": "DDIMScheduler", "prediction_type": "epsilon"})
    with pytest.raises(ConfigError, match="sets use_dynamic_shifting; expected a flow with one fixed shift"):
        FlowSchedule.from_config(euler | {"use_dynamic_shifting": True})
    with pytest.raises(ConfigError, match="must be above 0, got 0"):
        FlowSchedule.create(shift=0.0)
