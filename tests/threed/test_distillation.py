"""Score distillation against closed forms, and on a real (tiny) backbone."""

import itertools

import pytest
import torch

from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.adapters import LowRankConfig, build_adapter, injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.threed.cameras import orbit
from pcs_ext.threed.distillation import (
    DistillationConfig,
    TimestepLaw,
    distillation_loss,
    distilled_score,
    draw_noise,
    draw_timesteps,
    surrogate_loss,
)
from pcs_ext.threed.fields import Blob, VoxelField
from pcs_ext.threed.render import RenderConfig, render_rays
from pcs_ext.threed.view_noise import harmonic_variances, turning_noise
from pcs_ext.threed.view_prompts import ViewPrompts, directions
from tests.support.gaussian import GaussianBackbone


@pytest.mark.parametrize("weighting", ["sigma", "uniform", "fantasia3d"])
@pytest.mark.parametrize("scale", [1.0, 7.5])
def test_the_gradient_is_the_score_pulled_back(weighting: str, scale: float) -> None:
    backbone, generator = GaussianBackbone(), torch.Generator().manual_seed(0)
    images, noise = (torch.randn(4, 3, 8, 8, dtype=torch.float64, generator=generator) for _ in range(2))
    images.requires_grad_()
    timesteps = torch.tensor([20, 300, 700, 979])
    negative, positive = backbone.encode_prompt([""] * 4), backbone.encode_prompt(["a dog"] * 4)
    config = DistillationConfig(guidance_scale=scale, weighting=weighting)  # pyright: ignore[reportArgumentType]
    latents = backbone.encode_images(images)
    score = distilled_score(backbone, latents.detach(), timesteps, noise, negative, positive, config)
    (gradient,) = torch.autograd.grad(surrogate_loss(latents, score), images)

    abar = backbone.schedule.alphas_cumprod[timesteps].double()[:, None, None, None]
    noisy = abar.sqrt() * latents.detach() + (1 - abar).sqrt() * noise
    total = abar * backbone.variance + 1 - abar
    guess = (1 - abar).sqrt() * (noisy - abar.sqrt() * scale * backbone.mean) / total
    weight = {"sigma": 1 - abar, "uniform": 1, "fantasia3d": abar.sqrt() * (1 - abar)}[weighting]
    expected = torch.einsum("ij,bihw->bjhw", backbone.mixing, weight * (guess - noise)) / 4
    assert (gradient - expected).norm() <= 1e-10 * expected.norm()


def test_a_free_picture_goes_to_the_mean() -> None:
    backbone, generator = GaussianBackbone(mean=0.3), torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, 8, 8, dtype=torch.float64, generator=generator, requires_grad=True)
    start = images.detach().std()
    prompts = (backbone.encode_prompt([""] * 2), backbone.encode_prompt(["x"] * 2))
    optimizer = torch.optim.Adam([images], lr=0.05)
    averaged = torch.zeros_like(images)
    for step in range(600):
        for group in optimizer.param_groups:
            group["lr"] = 0.05 * (1 - step / 600)
        optimizer.zero_grad()
        config = DistillationConfig(guidance_scale=1.0)
        distillation_loss(backbone, images, prompts, config, progress=step / 600, generator=generator).backward()
        optimizer.step()
        if step >= 300:
            averaged += images.detach() / 300
    latents = backbone.encode_images(averaged)
    # Mode seeking: the data's deviation is 0.2, SDS leaves next to none of it.
    assert latents.mean().item() == pytest.approx(0.3, abs=0.02)
    assert latents.std() < 0.05 < start


def test_with_one_noise_a_free_picture_keeps_the_spread_of_the_data() -> None:
    """Of data N(m, v) the score is zero where m + v a/s eps is shown, eps the noise: a sample, not the mean."""
    backbone, generator = GaussianBackbone(mean=0.3), torch.Generator().manual_seed(0)
    level = 150 / 1000
    law = TimestepLaw(low=(level, level), high=(level, level))
    config = DistillationConfig(guidance_scale=1.0, timesteps=law, noise="kept")
    images = torch.zeros(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    prompts = (backbone.encode_prompt([""] * 2), backbone.encode_prompt(["x"] * 2))
    optimizer = torch.optim.Adam([images], lr=0.02)
    for step in range(400):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1 - step / 400)
        optimizer.zero_grad()
        loss = distillation_loss(backbone, images, prompts, config, progress=0.5, generator=generator, seed=5)
        loss.backward()
        optimizer.step()
    latents = backbone.encode_images(images.detach())
    noise = turning_noise(torch.zeros(1), (3, 8, 8), 0, 5)
    abar = backbone.schedule.alphas_cumprod[150].double()
    expected = 0.3 + 0.04 * (abar / (1 - abar)).sqrt() * noise
    torch.testing.assert_close(latents, expected.expand(2, -1, -1, -1), atol=2e-3, rtol=0)


def test_kept_noise_takes_nothing_from_the_other_draws() -> None:
    backbone, latents = GaussianBackbone(), torch.zeros(3, 3, 8, 8)
    azimuth = torch.tensor([0.0, 90.0, 180.0])

    def drawn(config: DistillationConfig, kept: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return draw_noise(backbone, latents, config, 0.5, generator, azimuth=azimuth, seed=kept)

    kept, fresh = DistillationConfig(noise="kept"), DistillationConfig()
    turning = DistillationConfig(noise="kept", harmonics=2)
    (first, noise), (second, again), (_, other) = drawn(kept, 1, 0), drawn(kept, 1, 9), drawn(kept, 2, 0)
    assert torch.equal(noise, again)
    assert torch.equal(noise[0], noise[2])
    assert not torch.equal(noise, other)
    assert not torch.equal(first, second)
    assert torch.equal(first, drawn(fresh, 0, 0)[0])
    assert not torch.equal(drawn(fresh, 0, 0)[1][0], drawn(fresh, 0, 0)[1][1])
    assert torch.equal(drawn(turning, 1, 0)[1], drawn(turning, 1, 9)[1])
    with pytest.raises(UsageError, match="azimuths"):
        draw_noise(backbone, latents, turning, 0.5, torch.Generator())
    with pytest.raises(ConfigError, match="harmonics"):
        DistillationConfig(harmonics=1)


@pytest.mark.parametrize("harmonics", [0, 1, 2, 4])
def test_kept_noise_turns_as_its_law_says(harmonics: int) -> None:
    """Over 40,000 elements variance is 1 at every azimuth and noises d apart correlate as cos^2K(d / 2)."""
    azimuth = torch.tensor([0.0, 20.0, 90.0, 180.0, -110.0, 360.0])
    noise = turning_noise(azimuth, (4, 100, 100), harmonics, 3).flatten(1)
    expected = torch.deg2rad((azimuth[:, None] - azimuth).double() / 2).cos() ** (2 * harmonics)
    assert sum(harmonic_variances(harmonics)) == pytest.approx(1.0, abs=1e-12)
    torch.testing.assert_close(noise @ noise.T / noise.shape[1], expected, atol=0.03, rtol=0)
    torch.testing.assert_close(noise[0], noise[5], atol=1e-12, rtol=0)
    assert torch.equal(noise[0], noise[3]) == (harmonics == 0)


def test_clamping_bounds_the_score() -> None:
    backbone = GaussianBackbone()
    latents = torch.full((1, 3, 8, 8), 9.0, dtype=torch.float64)
    prompt, t = backbone.encode_prompt(["a"]), torch.tensor([500])
    free, clamped = (
        distilled_score(
            backbone, latents, t, latents * 0, prompt, prompt, DistillationConfig(guidance_scale=1, max_gradient=limit)
        )
        for limit in (None, 0.1)
    )
    assert free.max() > 0.1
    assert clamped.max().item() == 0.1


def test_timestep_laws_at_their_ends() -> None:
    moving = TimestepLaw(low=(0.98, 0.02), high=(0.98, 0.5), until=0.8)
    assert moving.bounds(0.0) == (0.98, 0.98)
    assert moving.bounds(0.4) == pytest.approx((0.5, 0.74))
    assert moving.bounds(0.8) == moving.bounds(1.0) == pytest.approx((0.02, 0.5))
    assert TimestepLaw(kind="sqrt").bounds(0.25) == pytest.approx((0.5, 0.5))
    drawn = draw_timesteps(TimestepLaw(), 0.5, 4000, 1000, torch.Generator().manual_seed(0))
    assert (drawn.min().item(), drawn.max().item()) == (20, 980)
    shared = draw_timesteps(TimestepLaw(), 0.5, 5, 1000, torch.Generator().manual_seed(0), shared=True)
    assert shared.unique().numel() == 1
    with pytest.raises(ConfigError, match="low <= high"):
        TimestepLaw(low=(0.9, 0.9), high=(0.5, 0.5))


def test_directions_follow_the_camera() -> None:
    azimuth, elevation = [0.0, 44, 46, -90, 136, 180, -170, 10], [0.0, 0, 0, 0, 0, 0, 0, 75]
    cameras = orbit(azimuth, elevation, [1.0] * 8, [30.0] * 8)
    expected = ["front", "front", "side", "side", "back", "back", "back", "overhead"]
    assert directions(cameras) == expected


def test_each_camera_gets_its_own_words(sd: AbstractBackbone) -> None:
    prompts = ViewPrompts(sd, "a photo of the dog")
    negative, positive = prompts(orbit([180.0, 0.0], [0.0, 0.0], [1.0, 1.0], [30.0, 30.0]))
    expected = sd.encode_prompt(["a photo of the dog, back view", "a photo of the dog, front view"])
    assert torch.allclose(positive.states, expected.states, atol=1e-5)
    assert torch.allclose(negative.states, sd.encode_prompt(["", ""]).states, atol=1e-5)


def test_a_field_gets_a_gradient_and_the_backbone_none(sd: AbstractBackbone) -> None:
    from pcs_ext.threed.cameras import rays

    field, cameras = VoxelField(16, blob=Blob()), orbit([0.0], [15.0], [5.2], [32.0], (0.0, 0.0, 0.75))
    out = render_rays(field, rays(cameras, 16, 16), RenderConfig(samples=24))
    images = out.rgb.view(1, 16, 16, 3).permute(0, 3, 1, 2) * 2 - 1
    with torch.no_grad():
        prompts = ViewPrompts(sd, "a photo of the dog")
    generator = torch.Generator().manual_seed(0)
    loss = distillation_loss(sd, images, prompts(cameras), DistillationConfig(), progress=0.0, generator=generator)
    loss.backward()
    for parameter in field.parameters():
        assert parameter.grad is not None
        assert 0 < parameter.grad.norm() < float("inf")
    assert all(p.grad is None for module in sd.components().values() for p in module.parameters())


def test_an_adapter_speaks_through_the_score_and_leaves(sd: AbstractBackbone) -> None:
    adapter = build_adapter("lora", LowRankConfig(rank=2))
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def score() -> torch.Tensor:
        with torch.no_grad():
            prompt = sd.encode_prompt(["a photo of the dog"])
        config = DistillationConfig(guidance_scale=1.0)
        return distilled_score(sd, latents, torch.tensor([500]), latents.flip(-1), prompt, prompt, config)

    before = score()
    with injected(sd, adapter):
        with torch.no_grad():
            for parameter in itertools.chain(*adapter.parameters().values()):
                parameter.fill_(0.1)
        during = score()
    assert not torch.allclose(before, during, atol=1e-3)
    assert torch.equal(before, score())


def test_unequal_counts_are_refused() -> None:
    backbone = GaussianBackbone()
    one = backbone.encode_prompt(["a"])
    with pytest.raises(UsageError, match="one prompt per picture"):
        distillation_loss(
            backbone,
            torch.zeros(2, 3, 8, 8),
            (one, one),
            DistillationConfig(),
            progress=0.0,
            generator=torch.Generator(),
        )
