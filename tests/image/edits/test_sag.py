"""Symplectic adjoint guidance: the adjoint against autograd, the estimate against the sampler, and where it leads."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.one_by_one import one_by_one
from pcs_ext.image.edits.sag import EulerChain, Loss, SagConfig, gram, led_hooks, likeness_to, patch_features, sag
from pcs_ext.image.evaluate.encoders import load_image_text_encoder
from pcs_ext.image.sample import SampleConfig, SampleHooks, sample
from tests.support.encoders import tiny_clip
from tests.support.tiny import tiny_backbone

SAMPLING = SampleConfig(scheduler="ddim", num_inference_steps=4, guidance_scale=2.0)
PROMPT = "a red dog"


def quick(**changes) -> SagConfig:
    return dataclasses.replace(sag("toybox"), **{"sampling": SAMPLING, **changes})


def pictures(backbone: AbstractBackbone, loss: Loss, *, seeds: list[int], config: SagConfig) -> torch.Tensor:
    hooks = led_hooks(backbone, loss, config)
    return one_by_one(backbone, PROMPT, hooks, seeds=seeds, sampling=config.sampling)


def brightness(images: torch.Tensor) -> torch.Tensor:
    return images.mean()


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_adjoint_is_the_gradient(prediction_type: str, tmp_path: Path) -> None:
    backbone = tiny_backbone(tmp_path / "model", prediction_type=prediction_type)
    chain = EulerChain(backbone, backbone.encode_prompt(["", PROMPT]), quick(estimate_steps=3), [900, 700, 500, 300])
    assert chain.timesteps == [900, 700, 300]
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    weights = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1))
    states = chain.forward(latents)
    assert not any(state.requires_grad for state in states)
    start = latents.clone().requires_grad_(True)
    moved = start
    for index in range(3):
        moved = chain.advanced(moved, index)
    torch.testing.assert_close(moved.detach(), states[-1])
    (expected,) = torch.autograd.grad((weights * moved).sum(), start)
    torch.testing.assert_close(chain.pull_back(states[:-1], weights), expected, atol=1e-5, rtol=1e-4)


def test_with_all_its_steps_the_estimate_is_the_sampler(sd: AbstractBackbone) -> None:
    visited: list[tuple[int, torch.Tensor]] = []
    hooks = SampleHooks(before_step=lambda step, t, latents: visited.append((int(t), latents)) or latents)
    with torch.no_grad():
        sample(sd, [PROMPT], seeds=[0], config=SAMPLING, hooks=hooks)
    timesteps = [timestep for timestep, _ in visited]
    chain = EulerChain(sd, sd.encode_prompt(["", PROMPT]), quick(estimate_steps=9), timesteps)
    for state, (_, latents) in zip(chain.forward(visited[0][1])[:-1], visited, strict=True):
        torch.testing.assert_close(state, latents, atol=1e-4, rtol=1e-4)


def test_pictures_go_where_the_loss_falls(sd: AbstractBackbone) -> None:
    with torch.no_grad():
        plain = sample(sd, [PROMPT], seeds=[3], config=SAMPLING)
    off = quick(scale=0.0, repeat=False)
    assert torch.equal(pictures(sd, brightness, seeds=[3], config=off), plain)
    darker = pictures(sd, brightness, seeds=[3], config=quick(scale=2.0, repeat=False, first=0.0, last=1.0))
    brighter = pictures(
        sd, lambda images: -images.mean(), seeds=[3], config=quick(scale=2.0, repeat=False, first=0.0, last=1.0)
    )
    assert float(darker.mean()) < float(plain.mean()) < float(brighter.mean())
    twice = pictures(sd, brightness, seeds=[5, 3], config=quick())
    assert torch.equal(twice[1:], pictures(sd, brightness, seeds=[3], config=quick()))
    assert not torch.equal(twice[1:], pictures(sd, brightness, seeds=[3], config=quick(repeat=False)))


def test_what_is_compared(tmp_path: Path) -> None:
    features = torch.tensor([[[1.0, 2.0], [0.0, 3.0]]])
    assert gram(features).tolist() == [[[1.0, 2.0], [2.0, 13.0]]]
    assert torch.equal(gram(features), gram(features.flip(1))), "a style has no places"
    clip = load_image_text_encoder(tiny_clip(tmp_path / "clip"))
    one, other = torch.rand(2, 1, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert patch_features(clip, one, 2).shape == (1, 16, 32)
    for compare in ("style", "content"):
        loss = likeness_to(one, clip, quick(compare=compare, layer=1))
        assert float(loss(one)) == pytest.approx(0, abs=1e-3)
        assert float(loss(other)) > float(loss(one)) + 1e-3
        moving = other.clone().requires_grad_(True)
        loss(moving).backward()
        assert moving.grad is not None
        assert moving.grad.abs().sum() > 0
    with pytest.raises(ConfigError, match="the encoder has 2 blocks"):
        patch_features(clip, one, 3)


def test_settings_are_checked() -> None:
    for wrong in (SampleConfig(), dataclasses.replace(SAMPLING, guidance_scale=1.0)):
        with pytest.raises(ConfigError, match="leads steps of scheduler 'ddim'"):
            quick(sampling=wrong)
    for changes in ({"scale": -1.0}, {"estimate_steps": 0}, {"first": 0.8}, {"last": 1.2}, {"layer": 0}):
        with pytest.raises(ConfigError, match="out of range"):
            quick(**changes)
