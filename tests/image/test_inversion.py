"""DDIM inversion: sampling from the inverted noise comes back to the picture."""

from pathlib import Path

import pytest
import torch

from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.inversion import invert
from pcs_ext.image.sample import SampleConfig, SampleHooks, sample
from tests.support.tiny import tiny_backbone

PLAIN = SampleConfig(scheduler="ddim", num_inference_steps=10, guidance_scale=1.0)


def _smooth(backbone: AbstractBackbone) -> AbstractBackbone:
    """Random weights answer far more wildly to their input than trained ones; fixed points need a tamer answer."""
    backbone.denoiser.conv_out.weight.mul_(0.1)
    return backbone


def _pictures(backbone: AbstractBackbone) -> torch.Tensor:
    return torch.randn(2, backbone.latent_channels, 8, 8, generator=torch.Generator().manual_seed(3))


def _back(backbone: AbstractBackbone, states: list[torch.Tensor], prompts: list[str], config: SampleConfig):
    found: list[torch.Tensor] = []
    hooks = SampleHooks(initial_latents=states[-1], decode=lambda latents: found.append(latents) or latents)
    sample(backbone, prompts, seeds=[0] * len(prompts), config=config, hooks=hooks)
    return found[0]


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("guidance_scale", [1.0, 2.0])
@torch.no_grad()
def test_fixed_point_inversion_comes_back(tmp_path: Path, prediction_type: str, guidance_scale: float) -> None:
    backbone = _smooth(tiny_backbone(tmp_path / "model", prediction_type=prediction_type))
    config = SampleConfig(scheduler="ddim", num_inference_steps=10, guidance_scale=guidance_scale)
    latents, prompts = _pictures(backbone), ["a red dog", "a cat"]
    errors = []
    for iterations in (1, 8):
        states = invert(backbone, latents, prompts, config=config, fixed_point_iterations=iterations)
        assert len(states) == 11
        errors.append(float((_back(backbone, states, prompts, config) - latents).abs().max()))
    assert errors[1] < 1e-3
    assert errors[1] < errors[0]


@torch.no_grad()
def test_every_state_is_one_the_sampler_passes(tmp_path: Path) -> None:
    sd = _smooth(tiny_backbone(tmp_path / "model"))
    latents, prompts = _pictures(sd), ["a red dog", "a cat"]
    states = invert(sd, latents, prompts, config=PLAIN, fixed_point_iterations=12)
    passed: list[torch.Tensor] = []

    def note(step: int, timestep: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        passed.append(at)
        return at

    hooks = SampleHooks(initial_latents=states[-1], on_step=note, decode=lambda x: x)
    sample(sd, prompts, seeds=[0, 0], config=PLAIN, hooks=hooks)
    for inverted, visited in zip(reversed(states[:-1]), passed, strict=True):
        torch.testing.assert_close(inverted, visited, atol=1e-3, rtol=0)


@torch.no_grad()
def test_wrong_requests_are_named(sd: AbstractBackbone) -> None:
    latents = _pictures(sd)
    with pytest.raises(UsageError, match="expected scheduler 'ddim', got 'euler'"):
        invert(sd, latents, ["a", "b"], config=SampleConfig(scheduler="euler"))
    with pytest.raises(UsageError, match="1 prompts, 2 pictures"):
        invert(sd, latents, ["a"], config=PLAIN)
    with pytest.raises(UsageError, match="0 iterations"):
        invert(sd, latents, ["a", "b"], config=PLAIN, fixed_point_iterations=0)
