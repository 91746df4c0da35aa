"""An image model inflated to clips: what it starts as, where its frames look, and what it leaves behind."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import build_adapter
from pcs_ext.image.adapters.base import injected
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.video.backbone import to_frames
from pcs_ext.video.backbones.inflated import CrossFrame, InflatedBackbone, keys_of_clips
from pcs_ext.video.backbones.load import load_video_backbone
from pcs_ext.video.recipes import LayersConfig
from tests.support.tiny_video import tiny_motion_adapter, tiny_text_to_video

FRAMES = 3


@pytest.fixture(params=["sparse-causal", "first"])
def inflated(request: pytest.FixtureRequest, sd: AbstractUnetBackbone) -> Iterator[InflatedBackbone]:
    backbone = InflatedBackbone(sd, attention=request.param)
    yield backbone
    backbone.remove()


def noisy(frames: int = FRAMES) -> torch.Tensor:
    return torch.randn(1, 4, frames, 8, 8, generator=torch.Generator().manual_seed(0))


def test_keys_are_those_of_the_paper() -> None:
    states = torch.arange(4.0).reshape(1, 4, 1, 1)  # four frames of one token, which tells the frame
    sparse = keys_of_clips(states, "sparse-causal")[0, :, :, 0].tolist()
    assert sparse == [[0, 0], [0, 0], [0, 1], [0, 2]]
    assert keys_of_clips(states, "first")[0, :, :, 0].tolist() == [[0]] * 4


@torch.no_grad()
def test_it_starts_as_the_image_model(inflated: InflatedBackbone) -> None:
    image, level = inflated.image, torch.tensor([500])
    prompt = inflated.encode_prompt(["a dog"])
    pictures = image.predict(to_frames(noisy()), level.expand(FRAMES), prompt[[0] * FRAMES])
    clip = to_frames(inflated.predict(noisy(), level, prompt))
    # The first frame looks at itself alone, and new attention adds nothing yet.
    torch.testing.assert_close(clip[0], pictures[0], atol=1e-5, rtol=1e-4)
    assert (clip[1:] - pictures[1:]).abs().amax((1, 2, 3)).min() > 1e-3
    still = noisy()[:, :, :1].expand(-1, -1, FRAMES, -1, -1)
    torch.testing.assert_close(to_frames(inflated.predict(still, level, prompt))[2], pictures[0], atol=1e-5, rtol=1e-4)
    with inflated.frame_by_frame():
        assert torch.equal(to_frames(inflated.predict(noisy(), level, prompt)), pictures)
    inflated.remove()
    assert torch.equal(image.predict(to_frames(noisy()), level.expand(FRAMES), prompt[[0] * FRAMES]), pictures)


@torch.no_grad()
def test_new_attention_mixes_frames_place_by_place(inflated: InflatedBackbone) -> None:
    layer = inflated.motion.layers[0]
    torch.nn.init.normal_(layer.attention.to_out[0].weight, generator=torch.Generator().manual_seed(1))
    states = torch.randn(2 * FRAMES, 5, layer.norm.normalized_shape[0], generator=torch.Generator().manual_seed(2))
    before = layer(states, num_frames=FRAMES)
    changed = states.clone()
    changed[1, 3, 0] += 1.0  # first clip, second frame, fourth place
    moved = (layer(changed, num_frames=FRAMES) - before).abs().amax(-1) > 1e-6
    assert moved.nonzero().tolist() == [[frame, 3] for frame in range(FRAMES)]


def test_the_seed_decides_the_new_layers(sd: AbstractUnetBackbone) -> None:
    state = torch.random.get_rng_state()
    weights = []
    for seed in (0, 0, 1):
        backbone = InflatedBackbone(sd, seed=seed)
        weights.append(backbone.motion.layers[0].attention.to_q.weight)
        backbone.remove()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


@torch.no_grad()
@pytest.mark.parametrize("attention", ["sparse-causal", None])
def test_trained_whole_weights_run_on_a_base_of_half_precision(
    attention: CrossFrame | None, tiny_sd_path: Path, tmp_path: Path
) -> None:
    tiny_motion_adapter().save_pretrained(tmp_path / "motion")
    module = None if attention else tmp_path / "motion"
    video = load_video_backbone(tiny_sd_path, module, inflation=attention, device="cpu", precision="bf16")
    config = LayersConfig(layers="temporal_attention", method="full").adapter(video)
    prompt = video.encode_prompt(["a dog"])
    before = video.predict(noisy(), torch.tensor([500]), prompt)
    with injected(video, build_adapter("motion", config)):
        inside = video.predict(noisy(), torch.tensor([500]), prompt)
    assert inside.dtype == before.dtype == torch.bfloat16
    torch.testing.assert_close(inside, before, atol=0.05, rtol=0.05)
    assert torch.equal(video.predict(noisy(), torch.tensor([500]), prompt), before)


def test_what_cannot_be_inflated_is_named(tiny_sd_path: Path, tmp_path: Path) -> None:
    folder = tiny_text_to_video(tiny_sd_path, tmp_path / "t2v")
    with pytest.raises(UsageError, match="makes clips already; this method inflates an image model"):
        load_video_backbone(folder, inflation="first", device="cpu")
    with pytest.raises(UsageError, match="brings its own temporal layers; leave out"):
        load_video_backbone(tiny_sd_path, tmp_path, inflation="first", device="cpu")
