"""Objectives against the formulas they stand for, on a tiny base."""

import dataclasses

import pytest
import torch
from diffusers import DDPMScheduler
from torch import Tensor

from pcs_ext.defense.objectives import (
    AttentionGain,
    Denoised,
    DenoisingGain,
    FusedGain,
    LatentGain,
    PosteriorGain,
    Sample,
    ScoreGain,
    TargetShiftGain,
    previous_step,
)
from pcs_ext.defense.targets import pattern, target_image
from pcs_ext.image.attention import attention_program
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.runtime import generator_for


def sample(backbone: AbstractBackbone, *, timesteps: Tensor | None = None, seed: int = 0) -> Sample:
    clean = torch.rand(2, 3, 32, 32, generator=generator_for("objective")) * 2 - 1
    images = (clean + 0.03 * torch.randn(clean.shape, generator=generator_for("moved"))).clamp(-1, 1)
    with torch.no_grad():
        conditioning = backbone.encode_prompt(["a dog", "a cat"])
    return Sample(
        backbone=backbone,
        images=images.requires_grad_(),
        clean=lambda: clean,
        timesteps=torch.tensor([[100], [700]]) if timesteps is None else timesteps,
        conditioning=conditioning,
        words=torch.tensor([2, 2]),
        generators=[generator_for(seed, row) for row in range(2)],
    )


ALL = [DenoisingGain(), TargetShiftGain(), TargetShiftGain(quirks=True), LatentGain(), LatentGain(target="pattern"),
       PosteriorGain(), ScoreGain(), ScoreGain(ascend=True), FusedGain(), FusedGain(denoising_weight=0),
       AttentionGain(), AttentionGain(denoising_weight=1)]  # fmt: skip


@pytest.mark.parametrize("objective", ALL, ids=lambda o: o.kind)
def test_each_gives_one_gain_per_photo_and_a_gradient(objective, sd: AbstractBackbone) -> None:
    made = sample(sd)
    gains = objective(made)
    assert gains.shape == (2,)
    gains.sum().backward()
    assert made.images.grad is not None
    assert all(bool(torch.isfinite(row).all() and row.abs().max() > 0) for row in made.images.grad)
    assert all(parameter.grad is None for parameter in sd.denoiser.parameters())


def test_several_timesteps_share_one_encoding_and_average(sd: AbstractBackbone) -> None:
    both = DenoisingGain(posterior="mean")(sample(sd, timesteps=torch.tensor([[10, 900], [10, 900]])))
    assert both.shape == (2,)
    singles = []
    made = sample(sd, timesteps=torch.tensor([[10, 900], [10, 900]]))
    noise = made.normal((2, 4, 8, 8))
    latents = made.latents("mean")
    for index, timestep in enumerate((10, 900)):
        t = torch.tensor([timestep] * 2)
        noisy = sd.schedule.add_noise(latents, noise[:, index], t)
        singles.append((sd.predict(noisy, t, made.conditioning) - noise[:, index]).square().mean((1, 2, 3)))
    assert torch.allclose(both, (singles[0] + singles[1]) / 2, atol=1e-6)


def test_attention_erasure_counts_the_words_alone(sd: AbstractBackbone) -> None:
    none, two, all_of_them = (
        AttentionGain()(dataclasses.replace(sample(sd), words=torch.full((2,), count)))
        for count in (0, 2, sd.tokenizers[0].model_max_length - 1)
    )
    assert torch.equal(none, torch.zeros(2))
    seen: list[Tensor] = []

    def watch(path: str, probabilities: Tensor) -> Tensor:
        seen.append(probabilities[..., 1:3].sum(-1).mean((1, 2)))
        return probabilities

    with attention_program(sd, watch), torch.no_grad():
        DenoisingGain()(sample(sd))
    torch.testing.assert_close(-two.detach(), torch.stack(seen).mean(0), rtol=1e-5, atol=1e-6)
    assert (all_of_them < two).all()
    assert (all_of_them > -1).all(), "the start mark keeps its share"


def test_score_distillation_pushes_the_denoisers_error(sd: AbstractBackbone) -> None:
    made = sample(sd)
    gain = ScoreGain(ascend=True)(made)
    gain.sum().backward()
    again = sample(sd)
    latents = again.latents()
    noise = again.normal((1, 4, 8, 8))[:, 0]
    t = again.timesteps[:, 0]
    with torch.no_grad():
        error = sd.predict(sd.schedule.add_noise(latents, noise, t), t, again.conditioning) - noise
    latents.backward(error)
    assert made.images.grad is not None
    assert again.images.grad is not None
    assert torch.allclose(made.images.grad, again.images.grad, atol=1e-6)
    assert torch.allclose(gain, error.square().mean((1, 2, 3)), atol=1e-6)


def test_the_step_back_is_the_schedulers(sd: AbstractBackbone) -> None:
    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        variance_type="fixed_small",
    )
    generator = generator_for("step")
    prediction, noisy = torch.randn(2, 4, 8, 8, generator=generator), torch.randn(2, 4, 8, 8, generator=generator)
    for timestep in (0, 1, 500, 999):
        t = torch.tensor([timestep, timestep])
        result = Denoised(prediction, noisy, prediction, noisy, t, 1)
        output = scheduler.step(prediction, timestep, noisy, generator=torch.Generator().manual_seed(0))
        expected = output.prev_sample  # type: ignore[union-attr]
        if timestep > 0:
            spread = scheduler._get_variance(timestep) ** 0.5
            expected = expected - spread * torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
        assert torch.allclose(previous_step(sd, result), expected, atol=1e-4), timestep


def test_at_the_first_timestep_only_the_quirk_wraps(sd: AbstractBackbone) -> None:
    first = torch.zeros(2, 1, dtype=torch.int64)
    plain = TargetShiftGain()(sample(sd, timesteps=first))
    wrapped = TargetShiftGain(quirks=True)(sample(sd, timesteps=first))
    made = sample(sd, timesteps=first)
    latents = made.latents()
    noise = made.normal((1, 4, 8, 8))[:, 0]
    t = first[:, 0]
    noisy = sd.schedule.add_noise(latents, noise, t)
    prediction = sd.predict(noisy, t, made.conditioning)
    x0 = sd.schedule.to_x0(prediction, noisy, t)
    target = sd.encode_images(pattern(32)[None])
    loss = (prediction - noise).square().mean((1, 2, 3))
    assert torch.allclose(plain, loss - (x0 - target).square().mean((1, 2, 3)), atol=1e-5)
    far = sd.schedule.add_noise(target.expand(2, -1, -1, -1), noise, torch.tensor([999, 999]))
    assert torch.allclose(wrapped, loss - (x0 - far).square().mean((1, 2, 3)), atol=1e-5)


def test_posterior_statistics_by_hand(sd: AbstractBackbone) -> None:
    made = sample(sd)
    with torch.no_grad():
        mean, deviation = sd.encode_posterior(made.images)
        mean0, deviation0 = sd.encode_posterior(made.clean())
        moved, widened = (mean - mean0).square().mean((1, 2, 3)), (deviation - deviation0).square().mean((1, 2, 3))
        normal = [torch.distributions.Normal(m, d) for m, d in ((mean, deviation), (mean0, deviation0))]
        divergence = torch.distributions.kl_divergence(normal[0], normal[1]).mean((1, 2, 3))
        expected = {"mean": moved, "deviation": widened, "both": moved + widened, "kl": divergence}
        for statistic, value in expected.items():
            assert torch.allclose(PosteriorGain(statistic=statistic)(made), value, rtol=1e-3), statistic  # type: ignore[arg-type]
        same = dataclasses.replace(made, images=made.clean())
        assert torch.equal(PosteriorGain(statistic="both")(same), torch.zeros(2))


def test_targets_come_from_files_too(tmp_path) -> None:
    from PIL import Image

    Image.new("RGB", (60, 40), (255, 0, 0)).save(tmp_path / "red.png")
    image = target_image(str(tmp_path / "red.png"), 32)
    assert image.shape == (3, 32, 32)
    assert torch.allclose(image[:, 5, 5], torch.tensor([1.0, -1.0, -1.0]), atol=1e-3)
    assert set(pattern(64).unique().tolist()) <= {-1.0, 0.0, 1.0}
