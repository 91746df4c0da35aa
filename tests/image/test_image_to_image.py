"""Image-to-image against the closed form for Gaussian data."""

import pytest
import torch

from pcs_ext.errors import UsageError
from pcs_ext.image.image_to_image import first_step, image_to_image
from pcs_ext.image.sample import SampleConfig, build_scheduler, initial_noise
from tests.support.gaussian import GaussianBackbone

CONFIG = SampleConfig(scheduler="ddim", num_inference_steps=1000, guidance_scale=1.0)


@pytest.mark.parametrize("strength", [0.2, 0.6])
def test_a_picture_comes_back_as_far_as_its_noise_level_says(strength: float) -> None:
    backbone = GaussianBackbone(mean=0.1, variance=0.02)
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 0.4 - 0.2
    found = image_to_image(backbone, images, ["a", "a"], seeds=[3, 4], strength=strength, config=CONFIG).detach()
    # The deterministic sampler's flow between Gaussians is linear in x_t.
    timesteps = build_scheduler(backbone, CONFIG).timesteps
    level = timesteps[first_step(timesteps, strength * 1000)]
    signal, sigma = backbone.schedule.coefficients(level[None], images)
    noisy = signal * backbone.encode_images(images) + sigma * initial_noise(backbone, [3, 4], CONFIG)
    shrink = (0.02 / (signal**2 * 0.02 + sigma**2)).sqrt()
    expected = backbone.decode_latents(0.1 + shrink * (noisy - signal * 0.1)).clamp(-1, 1)
    assert (found - expected).abs().max() < 0.02


def test_noise_can_be_given() -> None:
    backbone, images = GaussianBackbone(), torch.zeros(2, 3, 8, 8)
    given = {"strength": 0.5, "config": SampleConfig(scheduler="ddim", num_inference_steps=4, guidance_scale=1.0)}
    drawn = image_to_image(backbone, images, ["a", "a"], seeds=[3, 4], **given)
    noise = initial_noise(backbone, [3, 4], CONFIG)
    assert torch.equal(image_to_image(backbone, images, ["a", "a"], seeds=[0, 0], noise=noise, **given), drawn)


def test_steps_above_the_level_are_left_out() -> None:
    timesteps = torch.tensor([900, 600, 300, 1])
    assert [first_step(timesteps, level) for level in (1000, 600, 599, 0)] == [0, 1, 2, 3]


def test_wrong_requests_are_refused() -> None:
    backbone, images = GaussianBackbone(), torch.zeros(1, 3, 8, 8)
    with pytest.raises(UsageError, match=r"in \(0, 1\], got 0"):
        image_to_image(backbone, images, ["a"], seeds=[0], strength=0, config=CONFIG)
    with pytest.raises(UsageError, match="a prompt and a seed per picture, got 1, 2, 1"):
        image_to_image(backbone, images, ["a", "b"], seeds=[0], strength=0.5, config=CONFIG)
