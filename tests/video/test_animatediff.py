"""The motion modules on a core backbone, against diffusers' own motion UNet."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_motion_model import UNetMotionModel

from pcs_ext.errors import ModelError, UsageError
from pcs_ext.image.adapters import LowRankConfig, build_adapter
from pcs_ext.image.adapters.base import injected
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.learn import learn
from pcs_ext.image.types import Conditioning
from pcs_ext.video.backbone import AbstractVideoBackbone, to_frames
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone, identity_motion_adapter
from tests.support.tiny_video import tiny_motion_adapter

FRAMES = 5


@pytest.fixture
def video(sd: AbstractUnetBackbone) -> AnimateDiffBackbone:
    return AnimateDiffBackbone(sd, tiny_motion_adapter())


def inputs(backbone: AbstractBackbone, frames: int = FRAMES) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    noisy = torch.randn(2, 4, frames, 8, 8, generator=torch.Generator().manual_seed(0))
    return noisy, torch.tensor([100, 700]), backbone.encode_prompt(["a photo of a dog", "a red cat"])


def stock(video: AnimateDiffBackbone, noisy: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor) -> Any:
    model: Any = UNetMotionModel.from_unet2d(video.denoiser, video.motion)
    return model.eval()(noisy, timesteps, states.repeat_interleave(noisy.shape[2], 0)).sample


def test_clips_equal_diffusers_motion_unet(video: AnimateDiffBackbone) -> None:
    noisy, timesteps, conditioning = inputs(video)
    with torch.no_grad():
        ours = video.predict(noisy, timesteps, conditioning)
        video.remove()
        theirs = stock(video, noisy, timesteps, conditioning.states)
    torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


@torch.no_grad()
def test_pictures_and_bypassed_clips_are_the_image_models_own(sd: AbstractUnetBackbone) -> None:
    video = AnimateDiffBackbone(sd, tiny_motion_adapter())
    noisy, timesteps, conditioning = inputs(video)
    moving = video.predict(noisy, timesteps, conditioning)
    with video.frame_by_frame():
        still = video.predict(noisy, timesteps, conditioning)
    picture = video.predict(noisy[:, :, 2], timesteps, conditioning)
    video.remove()
    own = sd.predict(noisy[:, :, 2], timesteps, conditioning)
    assert torch.equal(picture, own)
    torch.testing.assert_close(still[:, :, 2], own, atol=1e-5, rtol=1e-4)
    assert (moving - still).abs().max() > 1e-2


@torch.no_grad()
def test_a_fresh_adapter_of_ours_is_an_identity_and_diffusers_own_is_not(sd: AbstractUnetBackbone) -> None:
    noisy, timesteps, conditioning = inputs(sd)
    frames = to_frames(noisy)
    rows = torch.arange(2).repeat_interleave(FRAMES)
    own = sd.predict(frames, timesteps[rows], conditioning[rows])
    for adapter, same in ((identity_motion_adapter(sd.denoiser), True), (tiny_motion_adapter(), False)):
        video = AnimateDiffBackbone(sd, adapter)
        ours = to_frames(video.predict(noisy, timesteps, conditioning))
        video.remove()
        assert (float((ours - own).abs().max()) < 1e-5) is same


def gradients(video: AbstractVideoBackbone, kind: Any, one_frame: bool) -> dict[str, float]:
    """Sum of absolute gradients per adapter, with a spatial and a temporal adapter in place and `kind` training."""
    adapters = {}
    for name in ("spatial", "temporal"):
        targets = video.targets(name)
        config = LowRankConfig(rank=2, targets=targets.patterns, components=(targets.component,))
        adapters[name] = build_adapter(name, config)
    with injected(video, *adapters.values()):
        parameters = {name: [p for g in a.parameters().values() for p in g] for name, a in adapters.items()}
        for name, own in parameters.items():
            for parameter in own:
                # Zero-initialised halves pass no gradient on to the other half.
                torch.nn.init.normal_(parameter, std=0.1)
                parameter.requires_grad_(kind in (name, "both"))
        noisy, timesteps, conditioning = inputs(video, 1 if one_frame else FRAMES)
        if one_frame:
            with video.frame_by_frame():
                video.predict(noisy, timesteps, conditioning).square().mean().backward()
        else:
            video.predict(noisy, timesteps, conditioning).square().mean().backward()
        return {
            name: sum(0.0 if p.grad is None else float(p.grad.abs().sum()) for p in own)
            for name, own in parameters.items()
        }


@pytest.mark.parametrize("kind", ["spatial", "temporal", "both"])
@pytest.mark.parametrize("one_frame", [False, True])
def test_only_the_declared_layers_get_gradients(video: AnimateDiffBackbone, kind: str, one_frame: bool) -> None:
    if one_frame and kind == "temporal":
        with pytest.raises(RuntimeError, match="does not require grad"):
            gradients(video, kind, one_frame)
        return
    found = gradients(video, kind, one_frame)
    assert (found["spatial"] > 0) is (kind in ("spatial", "both"))
    assert (found["temporal"] > 0) is (kind in ("temporal", "both") and not one_frame)


def test_too_many_frames_and_unfit_adapters_are_named(sd: AbstractUnetBackbone) -> None:
    video = AnimateDiffBackbone(sd, tiny_motion_adapter())
    with pytest.raises(UsageError, match="positions for 8 frames, got a clip of 9"):
        video.predict(*inputs(video, 9))
    video.remove()
    with pytest.raises(ModelError, match="a layer of width 16 and a motion module of width 32"):
        AnimateDiffBackbone(sd, tiny_motion_adapter(block_out_channels=(32, 32)))
    with pytest.raises(ModelError, match="2 down_blocks and 3 in the motion adapter"):
        AnimateDiffBackbone(sd, tiny_motion_adapter(block_out_channels=(16, 32, 32)))


@torch.no_grad()
def test_clips_pass_the_autoencoder_frame_by_frame(video: AnimateDiffBackbone) -> None:
    clips = torch.rand(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1
    latents = video.encode_clips(clips, chunk=3)
    assert latents.shape == (2, 4, 4, 8, 8)
    torch.testing.assert_close(latents[1, :, 2], video.encode_images(clips[1:, :, 2])[0], atol=1e-5, rtol=1e-4)
    assert video.decode_clips(latents).shape == clips.shape


def test_a_subject_learned_on_photos_goes_into_clips_and_out_again(
    sd: AbstractUnetBackbone, photos: Path, tmp_path: Path
) -> None:
    artifact = learn(photos, noun="dog", output=tmp_path / "rex", recipe="textual-inversion", base=sd, steps=2)
    lora = learn(photos, noun="dog", output=tmp_path / "lora", recipe="dreambooth-lora", base=sd, steps=2)
    video = AnimateDiffBackbone(sd, tiny_motion_adapter())
    noisy, timesteps, _ = inputs(video)
    plain = video.encode_prompt(["a photo of a dog"] * 2)
    with torch.no_grad():
        before = video.predict(noisy, timesteps, plain)
        for subject in (artifact, lora):
            with subject.applied(video):
                conditioning = video.encode_prompt([subject.concept.prompt("a photo of {subject}")] * 2)
                assert not torch.equal(video.predict(noisy, timesteps, conditioning), before)
            assert torch.equal(video.predict(noisy, timesteps, plain), before)
