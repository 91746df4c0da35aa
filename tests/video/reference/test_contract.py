"""What every system that shows clip models photos must do: learn, be stored, act beside prompts and leave no trace."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pcs_ext.config_io import write_json
from pcs_ext.errors import ArtifactError, Interrupted
from pcs_ext.image.data import find_photos
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.reference.files import OTHER_WEIGHTS, save_adapter
from pcs_ext.image.reference.learn import parameter_groups
from pcs_ext.image.reference.reference import seen_by
from pcs_ext.image.reference.shown import Sight
from pcs_ext.image.sample import SampleConfig
from pcs_ext.reporter import SilentReporter
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.reference import REFERENCES
from pcs_ext.video.reference.base import AbstractClipReference, ShownWithLatents
from pcs_ext.video.reference.clips import ClipData
from pcs_ext.video.reference.directions import AskedDirections, Directions
from pcs_ext.video.reference.files import ClipReferenceConfig, OpenedAdapter, open_clip_adapter
from pcs_ext.video.reference.learn import ClipReferenceRequest, learn_clip_reference
from pcs_ext.video.reference.photos import ClipReference, PhotoRequest
from pcs_ext.video.reference.tracks import ClipTrack, directions_of
from pcs_ext.video.reference.training import ClipReferenceLoss, ClipReferenceTraining
from pcs_ext.video.sample import ClipConfig, sample_clips
from tests.support.learning import train_until
from tests.support.tiny_clip_reference import TINY_CLIP_SYSTEMS, clip_albums, tiny_clip_base, tiny_clip_system
from tests.support.tiny_reference import at_random, tiny_vision
from tests.support.tiny_video import tiny_motion_adapter

PROMPTS = ["a photo of the dog", "red dog on beach"]
SYSTEMS = list(REFERENCES)
FRAMES = 3
WITHOUT_PHOTOS_OTHERWISE = ("id-animator", "gen-1", "dreamoving")
"""Whose rows without photos look at what the encoder makes of none, or are drawn over maps all the same."""


@pytest.fixture
def eye(tmp_path: Path) -> Path:
    return tiny_vision(tmp_path / "eye")


@pytest.fixture
def video(request: pytest.FixtureRequest, tmp_path: Path) -> AbstractVideoBackbone:
    """What the test's system is for."""
    asked = getattr(request.node, "callspec", None)
    return tiny_clip_base("stylecrafter" if asked is None else asked.params["system"], tmp_path)


def sight_of(encoder: Any, *, count: int = 2) -> Sight:
    """Of random pictures, one beside each of `count` prompts."""
    images = torch.rand(count, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    return encoder.sight(images, None, cut=False).map(lambda tensor: tensor[:, None])


def shown(encoder: Any, *, seen: Tensor | None = None, flipped: bool = False) -> ShownWithLatents:
    generator = torch.Generator().manual_seed(3)
    latents, noise = (torch.randn(2, 4, 8, 8, generator=generator) for _ in range(2))
    sight = sight_of(encoder)
    if flipped:
        sight, latents = sight.map(lambda tensor: tensor.flip(0)), latents.flip(0)
    return ShownWithLatents(
        sight=sight, nouns=(("dog",),) * 2, seen=seen, latents=latents[:, None], noise=noise[:1].expand(2, -1, -1, -1),
        pyramid=(latents[:, None].repeat_interleave(2, -1), latents[:, None, :, 1:]), directions=directions(2),
    )  # fmt: skip


def directions(clips: int) -> Directions:
    """The same for every clip, as `track` has them."""
    told = directions_of([track().along(list(range(FRAMES))) for _ in range(clips)])
    return dataclasses.replace(told, coarseness=torch.zeros(clips))


def latents() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 4, FRAMES, 8, 8, generator=torch.Generator().manual_seed(4)), torch.tensor([300, 20])


def predicted(
    video: AbstractVideoBackbone, adapter: AbstractClipReference, pictures: ShownWithLatents, scale: float = 1.0
) -> Tensor:
    with torch.no_grad(), adapter.inserted(video, scale):
        told = adapter.conditioned(video, video.encode_prompt, PROMPTS, pictures, scale=scale)
        return video.predict(*latents(), told)


def test_every_system_has_a_tiny_one() -> None:
    assert list(TINY_CLIP_SYSTEMS) == SYSTEMS
    assert [entry.adapter.kind for entry in REFERENCES.values()] == SYSTEMS


@pytest.mark.parametrize("system", SYSTEMS)
def test_strength_counts_zero_is_the_model_to_the_bit_and_no_trace_stays(
    system: str, video: AbstractVideoBackbone, eye: Path
) -> None:
    adapter, encoder = tiny_clip_system(system, video, eye)
    at_random(adapter, video)
    adapter.eval().requires_grad_(False)
    with torch.no_grad():
        plain = video.predict(*latents(), video.encode_prompt(PROMPTS))
        full, half, none = (predicted(video, adapter, shown(encoder), scale) for scale in (1.0, 0.5, 0.0))
        assert torch.equal(none, plain)
        assert torch.equal(video.predict(*latents(), video.encode_prompt(PROMPTS)), plain), "a trace stayed"
    assert (full - plain).abs().max() > 1e-3
    assert not torch.equal(half, full)
    other = predicted(video, adapter, shown(encoder, flipped=True))
    assert (other - full).abs().flatten(1).amax(1).min() > 1e-5


@pytest.mark.parametrize("system", SYSTEMS)
def test_a_row_depends_on_its_own_prompt_and_photo(system: str, video: AbstractVideoBackbone, eye: Path) -> None:
    adapter, encoder = tiny_clip_system(system, video, eye)
    at_random(adapter, video)
    adapter.eval().requires_grad_(False)
    noisy, timesteps = latents()
    with torch.no_grad(), adapter.inserted(video):
        both = adapter.conditioned(video, video.encode_prompt, PROMPTS, shown(encoder))
        together = video.predict(noisy, timesteps, both)
        for row in range(2):
            alone = video.predict(noisy[row : row + 1], timesteps[row : row + 1], both[[row]])
            torch.testing.assert_close(alone[0], together[row], atol=5e-5, rtol=0)
        one = shown(encoder, seen=torch.tensor([True, False]))
        mixed = video.predict(noisy, timesteps, adapter.conditioned(video, video.encode_prompt, PROMPTS, one))
        torch.testing.assert_close(mixed[0], together[0], atol=5e-5, rtol=0)
        if system not in WITHOUT_PHOTOS_OTHERWISE:
            told = video.predict(noisy, timesteps, video.encode_prompt(PROMPTS))
            torch.testing.assert_close(mixed[1], told[1], atol=5e-5, rtol=0)


@pytest.mark.parametrize("system", SYSTEMS)
def test_it_learns_what_only_the_photo_tells_and_the_model_stays(system: str, eye: Path, tmp_path: Path) -> None:
    """A bright and a dark subject whose captions are one: told by the photo which, the model is right about it."""
    video = tiny_clip_base(system, tmp_path, prediction_type="v_prediction")
    adapter, encoder = tiny_clip_system(system, video, eye)
    data = bright_and_dark(sight_of(encoder).map(lambda tensor: tensor[:, 0]))
    settings = ClipReferenceTraining(
        batch_size=4, drop_image=0.0, drop_text=0.0, drop_both=0.0, learning_rate=1e-2, frames=FRAMES,
        base_learning_rate=1e-3 if system in ("stylecrafter", "dreamoving") else 1e-2,
    )  # fmt: skip
    late = lambda batch, generator: torch.randint(700, 790, (batch,), generator=generator)  # noqa: E731
    blank = Sight(features=torch.zeros_like(data.features[0]))
    loss = ClipReferenceLoss(video, adapter, data, settings, blank, draw_timesteps=late, encoder=encoder)
    weights = [parameter for part in video.components().values() for parameter in part.parameters()]
    before = [parameter.clone() for parameter in weights]
    told = functools.partial(tells_apart, video, adapter, data, by=0.05)
    adapter.train()
    with adapter.inserted(video):
        for number, stage in enumerate(adapter.stages):
            adapter.begin_stage(stage.name)
            groups = parameter_groups(adapter, stage, settings)
            begun = held_out(loss)
            learned = lambda: told() and held_out(loss) < 0.99 * begun  # noqa: B023, E731
            # Earlier stages prepare the last one, which ends as soon as nothing is left to ask of it.
            asked = learned if stage == adapter.stages[-1] else None
            train_until(asked, fit(loss, groups, FitConfig(steps=24 if number < 2 else 10)), every=4)
            assert held_out(loss) < (1.0 if stage.trains == ("base",) else 0.99) * begun, stage.name
            assert all(p.grad is not None for group in groups for p in group.parameters), stage.name
    with adapter.inserted(video):  # once more
        assert told()
    own = [parameter for part in video.components().values() for parameter in part.parameters()]
    assert all(torch.equal(a, b) for a, b in zip(before, own, strict=True))


@pytest.mark.parametrize("system", ["stylecrafter", "videoassembler", "sugar", "consisid"])
def test_gradients_are_the_same_where_blocks_are_computed_again(
    system: str, video: AbstractVideoBackbone, eye: Path
) -> None:
    adapter, encoder = tiny_clip_system(system, video, eye)
    at_random(adapter, video)
    adapter.train()

    def gradients() -> list[Tensor]:
        with adapter.inserted(video):
            trained = [parameter for group in adapter.groups().values() for parameter in group]
            for parameter in trained:
                parameter.requires_grad_(True)
                parameter.grad = None
            told = adapter.conditioned(video, video.encode_prompt, PROMPTS, shown(encoder))
            video.predict(*latents(), told).square().mean().backward()
            return [parameter.grad for parameter in trained if parameter.grad is not None]

    plain = gradients()
    video.denoiser.enable_gradient_checkpointing()
    again = gradients()
    assert len(plain) == len(again) > 0
    for one, other in zip(plain, again, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def bright_and_dark(one: Sight) -> ClipData:
    """A bright and a dark subject, of each two clips and two photos, whose captions do not tell them apart."""
    rows = torch.tensor([0, 0, 1, 1])
    features = torch.cat([one.features[:1], -one.features[:1]])
    level = torch.tensor([0.4, 0.4, -0.4, -0.4])
    levels = level[:, None, None, None].expand(4, 4, 8, 8).clone()
    return ClipData(
        latents=levels, features=features[rows],
        captions=[("",)] * 4, groups=torch.arange(4).reshape(2, 2).unbind(0), nouns=[("dog",), ("dog",)],
        clips=[torch.full((4, FRAMES + 1, 8, 8), float(one)) for one in level], told=["a photo of the dog"] * 4,
        owners=[0, 0, 1, 1], places=[(-1, -1)] * 4, frames=FRAMES, pyramid=[levels] * 2,
        tracks=[track() for _ in range(4)],
    )  # fmt: skip


def track() -> ClipTrack:
    """What is known of a clip that tells nobody what it shows."""
    frames, generator = FRAMES + 1, torch.Generator().manual_seed(5)
    maps = torch.randint(256, (3, frames, 32, 32), generator=generator).to(torch.uint8)
    speed = 4 * torch.rand(frames, 8, 8, generator=generator)
    return ClipTrack(speed=speed, action="walks", maps=maps, cover=torch.ones(frames, 8, 8))


@torch.no_grad()
def held_out(loss: ClipReferenceLoss) -> float:
    """The loss of batches that are always the same."""
    return sum(float(loss(0, 0, torch.Generator().manual_seed(100 + seed)).total) for seed in range(4))


def tells_apart(video: AbstractVideoBackbone, adapter: AbstractClipReference, data: ClipData, *, by: float) -> bool:
    """Whether the right photo makes the model less wrong than the other one, by more than `by`."""
    training = adapter.training
    adapter.eval()
    right, wrong = (error(video, adapter, data, order) for order in ([0, 1], [1, 0]))
    adapter.train(training)
    return right + by < wrong


@torch.no_grad()
def error(video: AbstractVideoBackbone, adapter: AbstractClipReference, data: ClipData, order: list[int]) -> float:
    """Mean square error of the velocity, the photos shown in some order; the adapter is inserted."""
    draws, rows = 8, torch.tensor([0, 2])
    clean = torch.stack([data.clips[0][:, :FRAMES], data.clips[2][:, :FRAMES]]).repeat(draws, 1, 1, 1, 1)
    generator = torch.Generator().manual_seed(9)
    noise = torch.randn(clean.shape, generator=generator)
    timesteps, chosen = torch.full((2 * draws,), 745), rows[order * draws]
    pictures = ShownWithLatents(
        sight=Sight(features=data.features[chosen][:, None]), nouns=(("dog",),) * 2 * draws,
        latents=data.latents[chosen][:, None], noise=torch.randn(2 * draws, 4, 8, 8, generator=generator),
        pyramid=(data.latents[chosen][:, None],) * 2, directions=directions(2 * draws),
    )  # fmt: skip
    told = adapter.conditioned(video, video.encode_prompt, ["a photo of the dog"] * 2 * draws, pictures)
    answer = video.predict(video.schedule.add_noise(clean, noise, timesteps), timesteps, told)
    return float((answer - video.schedule.target(clean, noise, timesteps)).square().mean())


@pytest.mark.parametrize("system", SYSTEMS)
def test_stored_and_opened_again_it_makes_the_same_clip(
    system: str, video: AbstractVideoBackbone, eye: Path, photos: Path, clip: Path, tmp_path: Path
) -> None:
    adapter, encoder = tiny_clip_system(system, video, eye)
    at_random(adapter, video)
    said = ClipReferenceConfig(
        kind=system, adapter=TINY_CLIP_SYSTEMS[system], encoder=str(eye), encoder_digest=encoder.digest, base="tiny",
        base_fingerprint=video.fingerprint, family="sd", steps=1,
    )  # fmt: skip
    save_adapter(adapter, said, tmp_path / "ours", half=False)
    adapter.eval().requires_grad_(False)
    nouns = ("dog",) if adapter.asks_noun else ()
    (photo,) = find_photos([photos / "0.png"])
    held = seen_by(OpenedAdapter(adapter=adapter, encoder=encoder), [photo], scale=1.0, nouns=nouns)
    frames = 1 + video.time_factor
    told = AskedDirections(structure=clip if adapter.tracking.structure else None)
    own = ClipReference(
        opened=held.opened, sight=held.sight, nouns=held.nouns, photo=photo, asked=told, frames=frames
    ).hooks(video)  # fmt: skip
    request = PhotoRequest(photos=(photos / "0.png",), adapter=str(tmp_path / "ours"), nouns=nouns, directions=told)
    opened = request.show(video, PROMPTS[:1], frames)
    assert opened is not None
    side = 8 * video.vae_factor
    config = SampleConfig(
        scheduler="euler" if video.joint else "ddim", num_inference_steps=2, guidance_scale=3.0, height=side, width=side
    )
    asked: dict[str, Any] = {"seeds": [1], "config": config, "clip": ClipConfig(frames=frames)}
    with torch.no_grad():
        made = [sample_clips(video, PROMPTS[:1], hooks=hooks, **asked) for hooks in (own, opened.hooks)]
        plain = sample_clips(video, PROMPTS[:1], **asked)
    assert torch.equal(*made)
    assert not torch.allclose(made[0], plain, atol=1e-3)
    assert {path.name for path in (tmp_path / "ours").iterdir()} == {"config.json", OTHER_WEIGHTS}


def test_one_with_weights_of_the_motion_goes_with_its_own_base(
    video: AbstractVideoBackbone, eye: Path, tmp_path: Path
) -> None:
    adapter, encoder = tiny_clip_system("stylecrafter", video, eye)
    with adapter.inserted(video):
        pass
    said = ClipReferenceConfig(
        kind="stylecrafter", adapter=TINY_CLIP_SYSTEMS["stylecrafter"], encoder=str(eye),
        encoder_digest=encoder.digest, base="tiny", base_fingerprint="of another", family="sd", steps=1,
    )  # fmt: skip
    save_adapter(adapter, said, tmp_path / "ours", half=False)
    with pytest.raises(ArtifactError, match="holds weights of tiny itself"):
        open_clip_adapter(video, str(tmp_path / "ours"))


class Stopping(SilentReporter):
    """Presses Ctrl-C at a step of a task."""

    def __init__(self, task: str, step: int) -> None:
        self.at = task, step

    def progress(self, task: str, step: int, total: int, **values: float) -> None:
        if (task, step) == self.at:
            raise KeyboardInterrupt


def test_a_training_that_was_stopped_goes_on_to_the_same_bits(eye: Path, tiny_sd_path: Path, tmp_path: Path) -> None:
    tiny_motion_adapter().save_pretrained(tmp_path / "module")
    write_json(
        tmp_path / "tiny.json",
        {"adapter": TINY_CLIP_SYSTEMS["stylecrafter"], "steps": 6, "batch_size": 2, "frames": 3},
    )
    request = ClipReferenceRequest(
        clips=clip_albums(tmp_path / "clips"), system="stylecrafter", base=str(tiny_sd_path),
        motion_module=str(tmp_path / "module"), encoder=str(eye), config=tmp_path / "tiny.json", device="cpu",
        precision="fp32",
    )  # fmt: skip
    with pytest.raises(Interrupted, match="same command goes on"):
        learn_clip_reference(request, tmp_path / "resumed", reporter=Stopping("learn reference (motion)", 1))
    assert (tmp_path / "resumed.training").is_dir()
    learn_clip_reference(request, tmp_path / "resumed")
    learn_clip_reference(request, tmp_path / "straight")
    resumed, straight = (load_file(tmp_path / name / OTHER_WEIGHTS) for name in ("resumed", "straight"))
    assert all(torch.equal(resumed[key], straight[key]) for key in straight)
    assert not (tmp_path / "resumed.training").exists()
