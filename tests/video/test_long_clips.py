"""FreeNoise and FreeInit: windows, their noise and weights, and starts that keep low frequencies."""

from typing import Any

import pytest
import torch

from pcs_ext.errors import UsageError
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.sample import SampleConfig
from pcs_ext.video import sample as sampling
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone
from pcs_ext.video.free_init import low_pass, mixed_start, next_start
from pcs_ext.video.long_clips import rescheduled_noise, window_starts, window_weights
from pcs_ext.video.sample import ClipConfig, sample_clips
from tests.support.tiny_video import tiny_motion_adapter


@pytest.fixture
def video(sd: AbstractUnetBackbone) -> Any:
    backbone = AnimateDiffBackbone(sd, tiny_motion_adapter())
    yield backbone
    backbone.remove()


def test_later_noise_is_the_first_windows_in_another_order() -> None:
    noise = rescheduled_noise((2, 3, 11, 4, 4), 4, 2, torch.Generator().manual_seed(0))
    assert noise.shape == (2, 3, 11, 4, 4)
    for first in (4, 6, 8):
        later, before = noise[:, :, first : first + 2], noise[:, :, first - 4 : first - 2]
        assert torch.equal(later, before) or torch.equal(later, before.flip(2))
    assert torch.equal(rescheduled_noise((1, 1, 3, 2, 2), 4, 2, torch.Generator().manual_seed(0)),
                       torch.randn(1, 1, 3, 2, 2, generator=torch.Generator().manual_seed(0))[:, :, :3])  # fmt: skip


def test_windows_cover_a_clip_and_count_most_in_their_middle() -> None:
    assert window_starts(11, 4, 2) == [0, 2, 4, 6, 7]
    assert window_starts(4, 4, 2) == [0]
    assert window_starts(3, 4, 4) == [0]
    assert window_weights(4).tolist() == [1, 2, 2, 1]
    assert window_weights(5).tolist() == [1, 2, 3, 2, 1]
    with pytest.raises(UsageError, match="stride of at most their length, got 4, 5"):
        window_starts(8, 4, 5)


def test_a_window_sees_its_own_frames_alone(video: AnimateDiffBackbone) -> None:
    """Changing the last frame changes nothing before the window that holds it; a clip of one window is as ever."""
    latents = torch.randn(1, 4, 8, 8, 8, generator=torch.Generator().manual_seed(0))
    other = latents.clone()
    other[:, :, -1] += 1
    told = video.encode_prompt(["a dog"])
    with torch.no_grad():
        plain = video.predict(latents, torch.tensor([500]), told)
        with video.windowed(8, 4):
            assert torch.equal(video.predict(latents, torch.tensor([500]), told), plain)
        with video.windowed(2, 2):
            one, two = (video.predict(x, torch.tensor([500]), told) for x in (latents, other))
        assert torch.allclose(one[:, :, :6], two[:, :, :6], atol=1e-6)
        assert not torch.allclose(one[:, :, 6:7], two[:, :, 6:7], atol=1e-4)
        assert torch.equal(video.predict(latents, torch.tensor([500]), told), plain)


def test_a_clip_longer_than_the_motion_modules_positions(video: AnimateDiffBackbone) -> None:
    config = SampleConfig(scheduler="ddim", num_inference_steps=2, guidance_scale=1.0)
    with torch.inference_mode():
        with pytest.raises(UsageError, match=r"positions for 8 frames, got a clip of 12.*--window"):
            sample_clips(video, ["a dog"], seeds=[0], config=config, clip=ClipConfig(frames=12))
        clips = sample_clips(video, ["a dog"], seeds=[0], config=config, clip=ClipConfig(frames=12, window=8))
    assert clips.shape[:3] == (1, 3, 12)


def test_the_filter_passes_the_lowest_and_halves_at_the_cutoff() -> None:
    passes = low_pass(8, 16, 16)
    assert passes[0, 0, 0] == 1
    # Frequency 2 of 16 is a quarter of the highest, 8; one of 8 frames likewise.
    assert passes[0, 2, 0] == passes[0, 0, -2] == passes[1, 0, 0] == 0.5
    assert passes[4, 8, 8] < 1e-6


def test_a_mixed_start_has_the_mean_of_one_and_the_detail_of_the_other() -> None:
    generator = torch.Generator().manual_seed(0)
    high = torch.randn(1, 2, 8, 16, 16, generator=generator)
    low = torch.full_like(high, 3.0)
    mixed = mixed_start(low, high)
    assert mixed.mean().item() == pytest.approx(3, abs=1e-4)
    checker = (-1.0) ** (torch.arange(16)[:, None] + torch.arange(16))
    assert float((mixed * checker).sum()) == pytest.approx(float((high * checker).sum()), rel=1e-3)
    assert torch.allclose(mixed_start(high, high), high, atol=1e-5)
    # At no signal the finished clip is gone, and its own noise mixed with itself stays.
    assert torch.allclose(next_start(low, high, high, 0.0), high, atol=1e-5)


def test_refined_clips_are_others_and_the_same_again(video: AnimateDiffBackbone) -> None:
    config = SampleConfig(scheduler="ddim", num_inference_steps=2, guidance_scale=1.0)
    with torch.inference_mode():
        made = [
            sample_clips(video, ["a dog"], seeds=[0], config=config, clip=ClipConfig(frames=4, refinements=rounds))
            for rounds in (0, 1, 1)
        ]
    assert torch.equal(made[1], made[2])
    assert not torch.equal(made[0], made[1])
    clip = ClipConfig(frames=4, refinements=1, first_frame=True)
    with pytest.raises(UsageError, match="start from noise alone"):
        sample_clips(video, ["a dog"], seeds=[0], config=config, clip=clip, first=torch.zeros(1, 4, 8, 8))


def test_every_round_mixes_the_noise_of_the_first_start(
    video: AnimateDiffBackbone, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = []

    def seen(latents: torch.Tensor, start: torch.Tensor, fresh: torch.Tensor, abar: float) -> torch.Tensor:
        starts.append(start)
        return next_start(latents, start, fresh, abar)

    monkeypatch.setattr(sampling, "next_start", seen)
    config = SampleConfig(scheduler="ddim", num_inference_steps=1, guidance_scale=1.0)
    with torch.inference_mode():
        sample_clips(video, ["a dog"], seeds=[0], config=config, clip=ClipConfig(frames=4, refinements=3))
    assert len(starts) == 3
    assert torch.equal(starts[0], starts[1])
    assert torch.equal(starts[0], starts[2])
