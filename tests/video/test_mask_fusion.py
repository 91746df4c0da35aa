"""Another protagonist inside a mask: what is kept, bit for bit, and what is new."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pcs_ext.errors import ConfigError
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.inversion import invert
from pcs_ext.image.sample import SampleConfig, SampleHooks
from pcs_ext.video.backbones.inflated import InflatedBackbone
from pcs_ext.video.mask_fusion import FusionConfig, MaskFusion, clip_mask, fused
from pcs_ext.video.sample import ClipConfig, sample_clips

CONFIG = SampleConfig(scheduler="ddim", num_inference_steps=4, guidance_scale=3.0)
FRAMES = 3


def halves() -> Tensor:
    """The left half of every frame."""
    mask = torch.zeros(1, 1, FRAMES, 8, 8)
    mask[..., :4] = 1
    return mask


@torch.no_grad()
def made(video: InflatedBackbone, mask: Tensor | None, config: FusionConfig) -> tuple[Tensor, list[Tensor]]:
    """Latents of a clip that starts from another one's inverted noise, and that one's latents, cleanest first."""
    clean = torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(0))
    states = invert(video, clean, [""], config=SampleConfig(scheduler="ddim", num_inference_steps=4, guidance_scale=1))
    kept: list[Tensor] = []

    def decode(latents: Tensor) -> Tensor:
        kept.append(latents)
        return video.decode_clips(latents)

    hooks = SampleHooks(decode=decode)
    if mask is not None:
        source, negative = video.encode_prompt(["a red cat"]), video.encode_prompt([""])
        fusion = MaskFusion(config, mask, states, source, negative, lambda call: call())
        hooks = SampleHooks(decode=decode, predict=fusion.wrap, on_step=fusion.on_step)
    clip = ClipConfig(frames=FRAMES, inverted_share=1.0)
    sample_clips(video, ["a dog"], seeds=[0], config=CONFIG, clip=clip, inverted=states[-1], hooks=hooks)
    return kept[0], states


def test_what_is_kept_stays_bit_for_bit_and_the_rest_is_new(sd: AbstractUnetBackbone) -> None:
    video = InflatedBackbone(sd, attention="causal")
    latents, states = made(video, halves(), FusionConfig())
    assert torch.equal(latents[..., 4:], states[0][..., 4:])
    assert (latents[..., :4] - states[0][..., :4]).abs().max() > 1e-2


def test_a_mask_of_all_is_no_mask(sd: AbstractUnetBackbone) -> None:
    video = InflatedBackbone(sd, attention="causal")
    plain, states = made(video, None, FusionConfig())
    whole, _ = made(video, torch.ones_like(halves()), FusionConfig())
    assert torch.equal(whole, plain)
    nothing, _ = made(video, torch.zeros_like(halves()), FusionConfig())
    assert torch.equal(nothing, states[0])


def test_predictions_are_the_new_prompts_inside_and_the_old_ones_without_subject_outside(
    sd: AbstractUnetBackbone,
) -> None:
    video = InflatedBackbone(sd, attention="causal")
    noisy, level = torch.randn(1, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([500])
    away: list[str] = []

    def without(call: Callable[[], Tensor]) -> Tensor:
        away.append("subject")
        return call()

    with torch.no_grad():
        new, source, negative = (video.encode_prompt([text]) for text in ("a dog", "a red cat", ""))
        fusion = MaskFusion(FusionConfig(), halves(), [noisy] * 5, source, negative, without)
        prediction = fusion.wrap(video.predict)(noisy, level, new)
        assert torch.equal(prediction[..., :4], video.predict(noisy, level, new)[..., :4])
        assert torch.equal(prediction[..., 4:], video.predict(noisy, level, source)[..., 4:])
    assert away == ["subject"]


def test_masks_count_for_a_share_of_the_steps(sd: AbstractUnetBackbone) -> None:
    video = InflatedBackbone(sd, attention="causal")
    half, states = made(video, halves(), FusionConfig(until=0.5))
    assert not torch.equal(half[..., 4:], states[0][..., 4:])
    with pytest.raises(ConfigError, match="until is a share"):
        FusionConfig(until=0.0)


def test_fused_is_the_weighted_sum() -> None:
    new, kept = torch.full((1, 1, 1, 1, 3), 2.0), torch.full((1, 1, 1, 1, 3), -1.0)
    assert fused(new, kept, torch.tensor([0.0, 0.5, 1.0]).reshape(1, 1, 1, 1, 3)).flatten().tolist() == [-1, 0.5, 2]


def test_masks_are_cells_of_every_frame() -> None:
    frames = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    frames[0, :, 0, 0] = frames[1, :, 7, 7] = 255
    mask = clip_mask(frames, 4, 2)
    assert mask[0, 0].tolist() == [[[1, 0], [0, 0]], [[0, 0], [0, 1]]]
    assert clip_mask(frames[:1], 4, 3)[0, 0].tolist() == [[[1, 0], [0, 0]]] * 3


@torch.no_grad()
def test_causal_attention_sees_no_later_frame(sd: AbstractUnetBackbone) -> None:
    video = InflatedBackbone(sd, attention="causal")
    layer = video.motion.layers[0]
    torch.nn.init.normal_(layer.attention.to_out[0].weight, generator=torch.Generator().manual_seed(1))
    states = torch.randn(FRAMES, 5, layer.norm.normalized_shape[0], generator=torch.Generator().manual_seed(2))
    changed = states.clone()
    changed[1, :, 0] += 2.0  # one channel: the norm in front would hide a shift of all
    moved = (layer(changed, num_frames=FRAMES) - layer(states, num_frames=FRAMES)).abs().amax((1, 2)) > 1e-6
    assert moved.tolist() == [False, True, True]
    first = layer(states[:1], num_frames=1)
    torch.testing.assert_close(layer(states, num_frames=FRAMES)[:1], first)


def test_every_round_of_sampling_keeps_the_clip(sd: AbstractUnetBackbone) -> None:
    video = InflatedBackbone(sd, attention="causal")
    states = [torch.full((1, 4, FRAMES, 8, 8), float(level)) for level in range(3)]
    with torch.no_grad():
        prompt = video.encode_prompt([""])
    fusion = MaskFusion(FusionConfig(), torch.zeros(1, 1, FRAMES, 8, 8), states, prompt, prompt, lambda call: call())
    latents, level = torch.full((1, 4, FRAMES, 8, 8), 99.0), torch.tensor(500)
    for _ in range(2):
        fusion.wrap(video.predict)
        assert torch.equal(fusion.on_step(0, level, latents), states[1])
        assert torch.equal(fusion.on_step(1, level, latents), states[0])
