"""What the newer methods do inside a pass: frozen branches, words by frame, words by timestep."""

import dataclasses
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import AbstractAdapter, EmbeddingConfig, SpectrumConfig, build_adapter, injected
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.levels import in_unit_range
from pcs_ext.reporter import SilentReporter
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone
from pcs_ext.video.backbones.inflated import InflatedBackbone
from pcs_ext.video.clips import read_clip
from pcs_ext.video.frame_words import by_frame, clip_conditioning
from pcs_ext.video.objectives import appearance_statistics_loss
from pcs_ext.video.recipes import MotionPass, MotionPhase
from pcs_ext.video.recipes.animate_a_story import animate_a_story
from pcs_ext.video.recipes.layers import MOTION, PROTAGONIST, LayersConfig, WordConfig
from pcs_ext.video.recipes.save import save
from pcs_ext.video.size import parse_size
from pcs_ext.video.training import EncodedClips, PassesLoss
from pcs_ext.video.training_clips import ClipFile, read_training_clips
from tests.support.tiny_video import tiny_motion_adapter

FRAMES = 3
LATENTS = torch.randn(4, FRAMES, 8, 12, generator=torch.Generator().manual_seed(0))


def loss_of(
    video: AbstractVideoBackbone,
    adapters: Mapping[str, AbstractAdapter],
    passes: tuple[MotionPass, ...],
    prompt: str,
    **options: Any,
) -> PassesLoss:
    phase = MotionPhase(name="p", passes=passes, learning_rates={}, fit=FitConfig(steps=1))
    return PassesLoss(phase, video, adapters, EncodedClips([LATENTS], [prompt], None), frames=FRAMES, **options)


def test_the_frozen_branch_is_the_model_without_adapters(sd: AbstractUnetBackbone) -> None:
    """MotionCrafter's loss in a pass, against predictions made by hand; nothing learned costs nothing."""
    video = AnimateDiffBackbone(sd, tiny_motion_adapter())
    adapter = build_adapter("motion", LayersConfig(layers="temporal", rank=2).adapter(video))
    keep = MotionPass(trains=("motion",), losses={"appearance_statistics": 1.0})
    with injected(video, adapter):
        loss = loss_of(video, {"motion": adapter}, (keep,), "a dog")
        assert float(loss(0, 0, torch.Generator().manual_seed(0)).total.detach()) == 0
        parameters = [p for group in adapter.parameters().values() for p in group]
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in parameters:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        got = loss(0, 0, torch.Generator().manual_seed(0)).total
        got.backward()
        assert all(parameter.grad is not None for parameter in parameters)
        loss.close()
        # The draws of a pass, in its order: clip, start of the window, noise, timestep.
        draws = torch.Generator().manual_seed(0)
        torch.randint(1, (), generator=draws)
        torch.randint(1, (), generator=draws)
        noise = torch.randn(1, *LATENTS.shape, generator=draws)
        level = torch.randint(1000, (1,), generator=draws)
        noisy, prompt = video.schedule.add_noise(LATENTS[None], noise, level), video.encode_prompt(["a dog"])
        with torch.no_grad():
            tuned = video.predict(noisy, level, prompt)
    with torch.no_grad():
        frozen = video.predict(noisy, level, prompt)
    assert float(got.detach()) == pytest.approx(float(appearance_statistics_loss(tuned, frozen)), rel=1e-4)
    assert float(got.detach()) > 1e-8


def test_clips_are_read_as_bytes_and_reach_the_device_one_at_a_time(
    sd: AbstractUnetBackbone, clip: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    video = AnimateDiffBackbone(sd, tiny_motion_adapter())
    how: Any = {"size": (32, 32), "multiple_of": 4}
    read = read_training_clips([ClipFile(clip, "a dog")] * 3, reporter=SilentReporter(), **how)
    assert {pixels.dtype for pixels in read} == {torch.uint8}
    assert torch.equal(in_unit_range(read[0]), read_clip(clip, stride=1, **how).video()[0])
    encode, seen = video.encode_clips, list[weakref.ref[Tensor]]()

    def watched(clips: Tensor) -> Tensor:
        assert all(pixels() is None for pixels in seen), "an earlier clip is still there"
        seen.append(weakref.ref(clips))
        return encode(clips)

    monkeypatch.setattr(video, "encode_clips", watched)
    encoded = EncodedClips.encode(video, read, ["a dog"] * 3)
    assert len(seen) == 3
    with torch.no_grad():
        assert torch.equal(encoded.latents[2], encode(in_unit_range(read[2])[None])[0])


def words_of(video: AbstractVideoBackbone) -> dict[str, AbstractAdapter]:
    configs = {name: layers for name, layers in save("sd").adapters.items() if isinstance(layers, WordConfig)}
    settled = {**configs, "word": WordConfig(placeholder="<motion>", per_frame=True, frames=FRAMES)}
    return {name: build_adapter(name, layers.adapter(video)) for name, layers in settled.items()}


def test_a_motion_word_learns_in_every_frame_and_the_protagonist_in_pictures_alone(sd: AbstractUnetBackbone) -> None:
    """SAVE's two phases; the clip is not square."""
    video = InflatedBackbone(sd)
    adapters = words_of(video)
    look = MotionPass(trains=("protagonist",), frames="one", losses={"denoising": 1.0})
    move = MotionPass(trains=("word",), beside=("protagonist",), losses={"denoising": 1.0, "motion_attention": 1.0})
    marks = {MOTION: "<motion>", PROTAGONIST: "<protagonist>"}
    with injected(video, *adapters.values()):
        loss = loss_of(video, adapters, (look, move), "a <protagonist> <motion> on grass", words=marks)
        (protagonist,), (motion,) = (adapters[name].parameters()["embedding"] for name in ("protagonist", "word"))
        loss(0, 0, torch.Generator().manual_seed(0)).total.backward()
        assert protagonist.grad is not None
        assert motion.grad is None
        protagonist.grad = None
        terms = loss(0, 1, torch.Generator().manual_seed(0))
        assert set(terms.terms) == {"word/denoising", "word/motion_attention"}
        terms.total.backward()
        assert protagonist.grad is None
        assert motion.grad is not None
        assert bool((motion.grad.abs().amax((1, 2)) > 0).all())
        loss.close()


@torch.no_grad()
def test_frames_are_sampled_from_their_own_prompts(sd: AbstractUnetBackbone) -> None:
    video = InflatedBackbone(sd)
    adapters = words_of(video)
    with injected(video, *adapters.values()):
        (rows,) = adapters["word"].parameters()["embedding"]
        rows.copy_(torch.randn(rows.shape, generator=torch.Generator().manual_seed(0)))
        prompt = "a dog <motion>"
        own = clip_conditioning(video, adapters.values(), prompt, FRAMES)
        assert own.batch_size == FRAMES
        assert clip_conditioning(video, adapters.values(), "a dog", FRAMES).batch_size == 1
        assert by_frame(video, adapters.values(), "a dog", "", FRAMES) is None
        wrap = by_frame(video, adapters.values(), prompt, "a cat", FRAMES)
        assert wrap is not None
        seen: list[Tensor] = []

        def inner(latents: Tensor, timesteps: Tensor, conditioning: Any) -> Tensor:
            seen.append(conditioning.states)
            return video.predict(latents, timesteps, conditioning)

        noisy, level = LATENTS[None], torch.tensor([500])
        plain = video.encode_prompt([prompt])
        wrap(inner)(torch.cat([noisy, noisy]), level.repeat(2), plain[[0, 0]])
        torch.testing.assert_close(seen[0][FRAMES:], own.states)
        torch.testing.assert_close(seen[0][:FRAMES], video.encode_prompt(["a cat"]).states.expand(FRAMES, -1, -1))
        assert wrap(inner)(noisy, level, plain).shape == noisy.shape
        with pytest.raises(UsageError, match="was learned for 3 frames"):
            clip_conditioning(video, adapters.values(), prompt, FRAMES + 1)


@torch.no_grad()
def test_a_word_of_equal_rows_at_all_timesteps_is_an_ordinary_word(sd: AbstractUnetBackbone) -> None:
    """Animate-A-Story's TimeInv with a constant table is textual inversion, in clips too; a row counts at its own t."""
    video = AnimateDiffBackbone(sd, tiny_motion_adapter())
    config = animate_a_story("dog", "sd").adapters["word"]
    assert isinstance(config, SpectrumConfig)
    assert config.stages == sd.schedule.num_train_timesteps
    row, noisy, prompt = torch.randn(16, generator=torch.Generator().manual_seed(2)), LATENTS[None], "a <subject>"
    plain, timed = (
        build_adapter(name, each)
        for name, each in (("plain", EmbeddingConfig(placeholder="<subject>")), ("timed", config))
    )
    with injected(video, plain):
        plain.parameters()["embedding"][0].copy_(row.expand(1, -1))
        expected = [video.predict(noisy, torch.tensor([t]), video.encode_prompt([prompt])) for t in (7, 500)]
    with injected(video, timed):
        (table,) = timed.parameters()["embedding"]
        assert table.shape == (1000, 1, 1, 16)
        table.copy_(row.expand_as(table))
        for t, clip in zip((7, 500), expected, strict=True):
            got = video.predict(noisy, torch.tensor([t]), video.encode_prompt([prompt]))
            torch.testing.assert_close(got, clip, atol=1e-5, rtol=1e-4)
        table[500, ..., 0] += 3.0
        changed = [video.predict(noisy, torch.tensor([t]), video.encode_prompt([prompt])) for t in (7, 500)]
    torch.testing.assert_close(changed[0], expected[0], atol=1e-5, rtol=1e-4)
    assert (changed[1] - expected[1]).abs().max() > 1e-4


@pytest.mark.parametrize(
    ("text", "size"), [("", None), ("512", (512, 512)), ("512x320", (320, 512)), ("64X32", (32, 64))]
)
def test_sizes_are_width_times_height(text: str, size: tuple[int, int] | None) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["0", "x", "512x", "512x0", "-8", "1.5", "512 x 320"])
def test_what_is_no_size_is_named(text: str) -> None:
    with pytest.raises(UsageError, match="width x height"):
        parse_size(text)


def test_a_noise_offset_is_another_number_for_every_channel_and_frame(sd: AbstractUnetBackbone) -> None:
    loss = loss_of(AnimateDiffBackbone(sd, tiny_motion_adapter()), {}, (), "a dog")
    loss.phase = dataclasses.replace(loss.phase, noise_offset=100.0)
    noise = loss._noise(torch.Size([1, 4, FRAMES, 32, 32]), torch.Generator().manual_seed(0))
    levels = noise.mean((-2, -1))
    assert levels.std(2).min() > 1, "frames of one channel differ, which one number per clip would not make them"
    assert (noise - levels[..., None, None]).std() < 1.1
