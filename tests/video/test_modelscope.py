"""The text-to-video backbone: parity with diffusers, exact bypass, routing, growth from a 2D UNet."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet3DConditionModel
from torch import nn

from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.adapters import LowRankConfig, build_adapter
from pcs_ext.image.adapters.base import injected
from pcs_ext.image.types import Conditioning
from pcs_ext.video.backbone import AbstractVideoBackbone, to_clips, to_frames
from pcs_ext.video.backbones.load import load_video_backbone
from pcs_ext.video.backbones.modelscope import grow_unet3d
from tests.support.tiny_video import tiny_text_to_video, tiny_unet2d

FRAMES = 5


@pytest.fixture
def video(tiny_sd_path: Path, tmp_path: Path) -> AbstractVideoBackbone:
    return load_video_backbone(tiny_text_to_video(tiny_sd_path, tmp_path / "t2v"), device="cpu", precision="fp32")


def inputs(video: AbstractVideoBackbone) -> tuple[torch.Tensor, torch.Tensor, Conditioning]:
    noisy = torch.randn(2, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(0))
    return noisy, torch.tensor([100, 700]), video.encode_prompt(["a photo of a dog", "a red cat"])


@torch.no_grad()
def test_clips_equal_the_stock_model(video: AbstractVideoBackbone) -> None:
    noisy, timesteps, conditioning = inputs(video)
    stock = UNet3DConditionModel.from_pretrained(Path(video.name) / "unet").eval()
    theirs = stock(noisy, timesteps, conditioning.states).sample
    torch.testing.assert_close(video.predict(noisy, timesteps, conditioning), theirs, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_bypassed_frames_do_not_know_of_each_other(video: AbstractVideoBackbone) -> None:
    noisy, timesteps, conditioning = inputs(video)
    moving = video.predict(noisy, timesteps, conditioning)
    with video.frame_by_frame():
        still = video.predict(noisy, timesteps, conditioning)
        by_frame = video.predict(noisy, timesteps, conditioning[torch.arange(2).repeat_interleave(FRAMES)])
    picture = video.predict(noisy[:, :, 3], timesteps, conditioning)
    torch.testing.assert_close(still[:, :, 3], picture, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(by_frame, still, atol=1e-5, rtol=1e-4)
    assert (moving - still).abs().max() > 1e-3
    assert torch.equal(video.predict(noisy, timesteps, conditioning), moving)


def test_prompts_by_frame_need_the_bypass(video: AbstractVideoBackbone) -> None:
    noisy, timesteps, conditioning = inputs(video)
    with pytest.raises(UsageError, match="one prompt per clip, got 10 for 2 clips"):
        video.predict(noisy, timesteps, conditioning[torch.arange(2).repeat_interleave(FRAMES)])


@torch.no_grad()
def test_states_by_layer_reach_the_text_attentions(video: AbstractVideoBackbone) -> None:
    noisy, timesteps, plain = inputs(video)
    asked: list[str] = []

    def per_layer(timesteps: torch.Tensor, path: str) -> tuple[torch.Tensor, torch.Tensor]:
        asked.append(path)
        return plain.states, plain.states

    layered = Conditioning(states=torch.zeros_like(plain.states), per_layer=per_layer)
    expected = video.predict(noisy, timesteps, plain)
    torch.testing.assert_close(video.predict(noisy, timesteps, layered), expected, atol=1e-5, rtol=1e-4)
    assert asked == list(video.cross_attention_paths())
    assert not any("temp_" in path for path in asked)


@pytest.mark.parametrize("one_frame", [False, True])
@pytest.mark.parametrize("trains", ["spatial", "temporal"])
def test_only_the_declared_layers_get_gradients(video: AbstractVideoBackbone, trains: str, one_frame: bool) -> None:
    adapters = {}
    for name in ("spatial", "temporal"):
        targets = video.targets(name)  # pyright: ignore[reportArgumentType]
        config = LowRankConfig(rank=2, targets=targets.patterns)
        adapters[name] = build_adapter(name, config)
    noisy, timesteps, conditioning = inputs(video)
    with injected(video, *adapters.values()):
        parameters = {name: [p for g in a.parameters().values() for p in g] for name, a in adapters.items()}
        for own in parameters.values():
            for parameter in own:
                # Zero-initialised halves pass no gradient on to the other half.
                torch.nn.init.normal_(parameter, std=0.1)
                parameter.requires_grad_(True)
        if one_frame:
            with video.frame_by_frame():
                video.predict(noisy[:, :, :1], timesteps, conditioning).square().mean().backward()
        else:
            for parameter in parameters["spatial" if trains == "temporal" else "temporal"]:
                parameter.requires_grad_(False)
            video.predict(noisy, timesteps, conditioning).square().mean().backward()
        moved = {n: any(p.grad is not None and bool(p.grad.any()) for p in own) for n, own in parameters.items()}
    assert moved == ({"spatial": True, "temporal": False} if one_frame else {n: n == trains for n in moved})


@torch.no_grad()
@pytest.mark.parametrize("linear", [False, True])
def test_a_grown_model_gives_every_frame_what_the_image_model_gives_it(linear: bool) -> None:
    unet = tiny_unet2d(linear=linear)
    grown = grow_unet3d(unet)
    noisy, timesteps = torch.randn(2, 4, FRAMES, 8, 8), torch.tensor([100, 700])
    states = torch.randn(2, 7, 16)
    frames = unet(to_frames(noisy), timesteps.repeat_interleave(FRAMES), states.repeat_interleave(FRAMES, 0)).sample
    torch.testing.assert_close(grown(noisy, timesteps, states).sample, to_clips(frames, 2), atol=1e-5, rtol=1e-4)


def test_a_unet_whose_heads_differ_in_width_does_not_grow() -> None:
    with pytest.raises(ConfigError, match=r"heads of this UNet are \[8, 16\] channels wide"):
        grow_unet3d(tiny_unet2d(heads=2))


def flattened(convolution: nn.Conv2d) -> nn.Parameter:
    return nn.Parameter(convolution.weight.detach().flatten(1))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda mid: setattr(mid, "attentions", nn.ModuleList()), "0 weights .* places there get none"),
        (lambda mid: setattr(mid.resnets[0].conv2, "weight", flattened(mid.resnets[0].conv2)), "1 weights .* and 0 pl"),
    ],
    ids=["a place without a weight", "as many numbers in another shape"],
)
def test_a_unet_that_would_leave_spatial_weights_random_or_mixed_up_does_not_grow(
    change: Callable[[Any], None], told: str
) -> None:
    unet = tiny_unet2d()
    change(unet.mid_block)
    with pytest.raises(ConfigError, match=told):
        grow_unet3d(unet)
