"""Sampling after a given first frame: it stays clean for the denoiser and in the end, and lends its colours."""

import pytest
import torch

from pcs_ext.errors import UsageError
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.sample import SampleConfig
from pcs_ext.video.backbones.inflated import GatedConvolution, InflatedBackbone
from pcs_ext.video.first_frame import with_colours_of_first
from pcs_ext.video.sample import ClipConfig, sample_clips

CONFIG = SampleConfig(scheduler="dpmsolver++", num_inference_steps=3, guidance_scale=3.0)
CLIP = ClipConfig(frames=3, noise="shared", share=0.2, first_frame=True)


def test_colours_are_those_of_the_first_frame_and_places_stay() -> None:
    clips = torch.tensor([[[[[1.0, 2.0], [3.0, 4.0]], [[40.0, 10.0], [30.0, 20.0]]]]])
    assert with_colours_of_first(clips)[0, 0].tolist() == [[[1, 2], [3, 4]], [[4, 1], [3, 2]]]


@torch.no_grad()
@pytest.mark.parametrize("scheduler", ["ddim", "dpmsolver++", "euler"])
def test_the_denoiser_sees_a_clean_first_frame_at_every_step(sd: AbstractUnetBackbone, scheduler: str) -> None:
    video = InflatedBackbone(sd, attention="first")
    first = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    seen: list[torch.Tensor] = []
    handle = sd.denoiser.conv_in.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    config = SampleConfig(scheduler=scheduler, num_inference_steps=3, guidance_scale=3.0)  # pyright: ignore[reportArgumentType]
    made = sample_clips(video, ["a dog"], seeds=[0], config=config, clip=CLIP, first=first)
    handle.remove()
    assert len(seen) == 3
    for latents in seen:  # two branches of the guidance, three frames each
        assert torch.equal(latents[[0, 3]], first.expand(2, -1, -1, -1))
        assert (latents[1] - first[0]).abs().max() > 0.1
    still = video.decode_latents(first).clamp(-1, 1)
    torch.testing.assert_close(made[:, :, 0], still, atol=1e-5, rtol=1e-4)
    assert torch.equal(made[0, :, 1].flatten(1).sort().values, made[0, :, 0].flatten(1).sort().values)


def test_a_first_frame_is_given_exactly_when_asked_for(sd: AbstractUnetBackbone) -> None:
    video, first = InflatedBackbone(sd, attention="first"), torch.zeros(1, 4, 8, 8)
    for clip, given, prompts in ((CLIP, None, 1), (ClipConfig(frames=3), first, 1), (CLIP, first, 2)):
        with pytest.raises(UsageError, match="a first frame is given exactly when first_frame is set"):
            sample_clips(video, ["a dog"] * prompts, seeds=[0] * prompts, config=CONFIG, clip=clip, first=given)


@torch.no_grad()
def test_gated_convolutions_look_back_two_frames_and_start_at_nothing(sd: AbstractUnetBackbone) -> None:
    block = sd.denoiser.down_blocks[0].resnets[0]
    layer = GatedConvolution(block)
    states = torch.randn(2 * 5, block.out_channels, 2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer(states, num_frames=5), states)
    torch.nn.init.normal_(layer.convolution.weight, generator=torch.Generator().manual_seed(1))
    before = layer(states, num_frames=5)
    changed = states.clone()
    changed[1, 0, 1, 1] += 1.0  # first clip, second frame
    moved = (layer(changed, num_frames=5) - before).abs().amax(1) > 1e-6
    assert moved.nonzero().tolist() == [[1, 1, 1], [2, 1, 1], [3, 1, 1]]
    # The gate is half open: half of what the convolution says is added.
    assert torch.allclose(before - states, 0.5 * _convolved(layer, states), atol=1e-5)


def _convolved(layer: GatedConvolution, states: torch.Tensor) -> torch.Tensor:
    weight = layer.convolution.weight
    clips = states.unflatten(0, (2, 5))
    past = torch.cat([clips[:, :1], clips[:, :1], clips], 1)
    parts = [torch.einsum("oc,bfchw->bfohw", weight[:, :, k], past[:, k : k + 5]) for k in range(3)]
    return sum(parts[1:], parts[0]).flatten(0, 1)
