"""Sampling clips: reproducible, and what it should reduce to."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import build_adapter, injected
from pcs_ext.image.adapters.low_rank_layers import LoraLinearLayer
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.inversion import invert
from pcs_ext.image.sample import SampleConfig, SampleHooks, sample
from pcs_ext.video.backbone import LayerKind
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone
from pcs_ext.video.recipes import LayersConfig
from pcs_ext.video.sample import ClipConfig, sample_clips, starting_noise
from tests.support.tiny_video import tiny_motion_adapter

CONFIG = SampleConfig(scheduler="ddim", num_inference_steps=3, guidance_scale=3.0)
CLIP = ClipConfig(frames=4)


@pytest.fixture
def video(sd: AbstractUnetBackbone) -> Iterator[AnimateDiffBackbone]:
    with torch.inference_mode():
        yield AnimateDiffBackbone(sd, tiny_motion_adapter())


def test_a_clip_depends_on_its_own_seed_alone(video: AnimateDiffBackbone) -> None:
    prompts = ["a dog", "a cat"]
    both = sample_clips(video, prompts, seeds=[3, 4], config=CONFIG, clip=CLIP, batch_size=2)
    alone = sample_clips(video, prompts[1:], seeds=[4], config=CONFIG, clip=CLIP)
    assert both.shape == (2, 3, 4, 32, 32)
    torch.testing.assert_close(both[1:], alone, atol=1e-4, rtol=1e-3)
    assert torch.equal(alone, sample_clips(video, prompts[1:], seeds=[4], config=CONFIG, clip=CLIP))
    assert (both[0] - both[1]).abs().max() > 1e-3


@pytest.mark.parametrize("scheduler", ["ddim", "dpmsolver++", "euler"])
def test_without_motion_frames_are_the_pictures_of_their_noise(sd: AbstractUnetBackbone, scheduler: str) -> None:
    config = SampleConfig(scheduler=scheduler, num_inference_steps=3, guidance_scale=3.0)  # pyright: ignore[reportArgumentType]
    video = AnimateDiffBackbone(sd, tiny_motion_adapter())
    with torch.inference_mode(), video.frame_by_frame():
        clip = sample_clips(video, ["a dog"], seeds=[1], config=config, clip=CLIP)
        noise = starting_noise(video, [1], config, CLIP)[0].transpose(0, 1)
        sigma = 1.0 if scheduler != "euler" else _euler_sigma(video, config)
        hooks = SampleHooks(initial_latents=noise * sigma)
        frames = sample(video, ["a dog"] * 4, seeds=[0] * 4, config=config, hooks=hooks)
    torch.testing.assert_close(clip[0].transpose(0, 1), frames, atol=1e-4, rtol=1e-3)


def _euler_sigma(video: AnimateDiffBackbone, config: SampleConfig) -> float:
    # linspace spacing: diffusers' Euler starts at its largest sigma.
    abar = float(video.schedule.alphas_cumprod[-1])
    return ((1 - abar) / abar) ** 0.5


def test_a_motion_is_merged_unless_someone_reaches_into_the_sampling(
    sd: AbstractUnetBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    video, calls, forward = AnimateDiffBackbone(sd, tiny_motion_adapter()), [0], LoraLinearLayer.forward
    kinds: tuple[LayerKind, ...] = ("spatial", "temporal")
    adapters = [build_adapter(kind, LayersConfig(layers=kind, rank=2).adapter(video)) for kind in kinds]

    def counted(layer: LoraLinearLayer, x: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return forward(layer, x)

    monkeypatch.setattr(LoraLinearLayer, "forward", counted)
    how: Any = {"seeds": [1], "config": CONFIG, "clip": CLIP}
    with injected(video, *adapters), torch.no_grad():
        generator = torch.Generator().manual_seed(0)
        for adapter in adapters:
            for parameter in (p for group in adapter.parameters().values() for p in group):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
        together = sample_clips(video, ["a dog"], **how)
        assert calls == [0]
        apart = sample_clips(video, ["a dog"], hooks=SampleHooks(predict=lambda predict: predict), **how)
        assert calls[0] > 0
    assert not torch.allclose(together, sample_clips(video, ["a dog"], **how), atol=1e-2)
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-3)


def test_noise_kinds_and_the_reference_reach_the_start(video: AnimateDiffBackbone) -> None:
    still = starting_noise(video, [1, 2], CONFIG, ClipConfig(frames=4, noise="correlated", share=1.0))
    assert torch.equal(still[:, :, 0], still[:, :, 3])
    reference = torch.randn(1, 4, 4, 8, 8)
    all_of_it = starting_noise(video, [1, 2], CONFIG, ClipConfig(frames=4, inverted_share=1.0), reference)
    assert torch.equal(all_of_it, reference.expand(2, -1, -1, -1, -1))
    with pytest.raises(UsageError, match=r"needs inverted noise of shape \(1, 4, 4, 8, 8\), got none"):
        starting_noise(video, [1], CONFIG, ClipConfig(frames=4, inverted_share=0.5))
    with pytest.raises(UsageError, match="at least one frame, got 0"):
        starting_noise(video, [1], CONFIG, ClipConfig(frames=0))


def test_a_clip_starts_as_the_model_was_trained_unless_told(
    video: AnimateDiffBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    independent = starting_noise(video, [1], CONFIG, ClipConfig(frames=4, noise="independent"))
    assert torch.equal(starting_noise(video, [1], CONFIG, ClipConfig(frames=4)), independent)
    monkeypatch.setattr(video, "noise_share", 1.0)
    alike = starting_noise(video, [1], CONFIG, ClipConfig(frames=4))
    assert torch.equal(alike[:, :, 0], alike[:, :, 3])
    assert torch.equal(starting_noise(video, [1], CONFIG, ClipConfig(frames=4, noise="independent")), independent)


def test_inverting_a_clip_and_sampling_it_comes_back(video: AnimateDiffBackbone) -> None:
    """The core's inversion takes clips as it is; the way back is closer with more steps."""
    latents = torch.randn(1, 4, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    errors = []
    for steps in (5, 40):
        config = SampleConfig(scheduler="ddim", num_inference_steps=steps, guidance_scale=1.0)
        inverted = invert(video, latents, ["a dog"], config=config)[-1]
        hooks = SampleHooks(initial_latents=inverted, decode=lambda latents: latents / 100)
        back = sample_clips(video, ["a dog"], seeds=[0], config=config, hooks=hooks) * 100
        errors.append(float((back - latents).square().mean()))
    assert errors[1] < errors[0] / 2
