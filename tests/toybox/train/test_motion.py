"""Clips, the motion reader and the motion adapter at a tiny size."""

import itertools
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import MotionAdapter
from safetensors.torch import load_file

from pcs_ext.errors import ConfigError, InputError, ModelError
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.reporter import SilentReporter
from pcs_ext.toybox.motion_reader import NONE, READINGS, MotionReader
from pcs_ext.toybox.quality_motion import held_out_clips, measure_motion_reader
from pcs_ext.toybox.train.__main__ import run
from pcs_ext.toybox.train.clips import FRAMES, clips_of, load_clips
from pcs_ext.toybox.train.export import export_clips, teach_words
from pcs_ext.toybox.train.motion import WORDS, MotionWords, clip_latents, motion_words, train_motion
from pcs_ext.toybox.train.motion_reader import damage_clips, freeze
from pcs_ext.toybox.train.settings import Settings
from pcs_ext.toybox.world.motion import frames_of
from pcs_ext.toybox.world.vocabulary import MOTIONS

TINY = Settings(resolution=32, vae_factor=4, scenes=240, text_width=48, text_layers=1, unet_channels=(16, 32, 32))


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with clips in it."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PCS_EXT_CACHE", str(cache))
        run("clips", TINY, 0, None, SilentReporter())
    return cache


@pytest.fixture
def cache(rendered: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Another cache with the same clips."""
    monkeypatch.setenv("PCS_EXT_CACHE", str(tmp_path))
    TINY.folder.mkdir(parents=True)
    (TINY.folder / "clips").symlink_to(rendered / TINY.folder.name / "clips")
    return tmp_path


def test_clips_show_one_motion_from_its_first_half_on(cache: Path) -> None:
    data = load_clips(TINY)
    assert data.images.shape == (24, FRAMES, 3, 32, 32)
    for captions, motion in zip(data.captions, data.motions, strict=True):
        assert motion in MOTIONS
        assert all(motion in caption for caption in captions)
    moved = (data.images[:, 1:].int() - data.images[:, :-1].int()).abs().flatten(2).amax(2)
    assert (moved > 20).all(), "every frame differs from the one before"
    for clip in clips_of("clips", 0, 5):
        assert 0 <= clip[0].time <= 0.5
        assert [round(16 * (b.time - a.time), 6) for a, b in itertools.pairwise(clip)] == [1.0] * (FRAMES - 1)
    with pytest.raises(ConfigError, match="from 0.8 on end at 1.2375"):
        frames_of(clips_of("clips", 0, 1)[0][0], 8, start=0.8)


def test_clips_are_rendered_once(cache: Path) -> None:
    path = TINY.folder / "clips" / "00000.json"
    before = path.stat().st_mtime_ns
    run("clips", TINY, 0, None, SilentReporter())
    assert path.stat().st_mtime_ns == before


def test_clips_must_be_rendered_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PCS_EXT_CACHE", str(tmp_path))
    with pytest.raises(InputError, match="train clips` first"):
        load_clips(TINY)


def test_stopped_clips_are_labelled_so() -> None:
    clips = torch.randn(400, 4, 3, 2, 2)
    frozen, labels = freeze(clips, torch.zeros(400, dtype=torch.int64), torch.Generator().manual_seed(0))
    still = (frozen == frozen[:, :1]).flatten(1).all(1)
    assert torch.equal(still, labels == READINGS.index(NONE))
    assert 0.08 < still.float().mean() < 0.24
    assert torch.equal(frozen[~still], clips[~still])


def test_damage_hardly_flickers() -> None:
    clips = torch.zeros(4, 6, 3, 16, 16) + torch.linspace(-0.5, 0.5, 16)
    damaged = damage_clips(clips, torch.Generator().manual_seed(0))
    assert damaged.shape == clips.shape
    assert not torch.equal(damaged, clips)
    assert (damaged - clips).abs().mean() < 0.2


def test_the_reader_learns_left_from_right_and_still_and_comes_back_from_disk(tmp_path: Path) -> None:
    torch.manual_seed(0)
    reader = MotionReader(("left", "right", ""), (8, 16, 16))
    optimizer = torch.optim.AdamW(reader.parameters(), lr=3e-3)

    def batch(generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        labels = torch.randint(3, (12,), generator=generator)
        places = torch.randint(8, 24, (12,), generator=generator)
        clips = torch.zeros(12, 5, 3, 32, 32)
        for clip, label, place in zip(clips, labels.tolist(), places.tolist(), strict=True):
            for index in range(5):
                x = place + (-2, 2, 0)[label] * index
                clip[index, :, 12:20, max(0, x - 4) : x + 4] = 1
        return clips, labels

    generator = torch.Generator().manual_seed(1)
    for _ in range(60):
        clips, labels = batch(generator)
        loss = torch.nn.functional.cross_entropy(reader(clips), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    clips, labels = batch(torch.Generator().manual_seed(2))
    reader.save(tmp_path / "reader")
    again = MotionReader.load(tmp_path / "reader")
    assert again.read(clips) == [reader.readings[label] for label in labels.tolist()]
    with pytest.raises(ModelError, match="holds no motion reader"):
        MotionReader.load(tmp_path)


def test_the_reader_stage_trains_and_resumes(cache: Path) -> None:
    run("motion_reader", TINY, 3, 1e-9, SilentReporter())
    run("motion_reader", TINY, 3, None, SilentReporter())
    resumed = load_file(TINY.folder / "models" / "motion_reader" / "model.safetensors")
    (TINY.folder / "models" / "motion_reader").rename(cache / "resumed")
    (TINY.folder / "motion_reader").rename(cache / "checkpoints")
    run("motion_reader", TINY, 3, None, SilentReporter())
    straight = load_file(TINY.folder / "models" / "motion_reader" / "model.safetensors")
    assert resumed.keys() == straight.keys()
    assert all(torch.equal(resumed[key], straight[key]) for key in straight)


def test_the_adapter_stage_trains_temporal_layers_only(cache: Path, tiny_sd_path: Path) -> None:
    before = {key: value.clone() for key, value in load_file(tiny_sd_path / "unet" / _unet_file(tiny_sd_path)).items()}
    train_motion(TINY, 2, None, SilentReporter(), base=tiny_sd_path)
    trained: MotionAdapter = MotionAdapter.from_pretrained(TINY.folder / "models" / "motion")
    out = [value for key, value in trained.state_dict().items() if ".proj_out.weight" in key]
    assert all(value.abs().max() > 0 for value in out), "the zero projections of a fresh adapter moved"
    after = load_file(tiny_sd_path / "unet" / _unet_file(tiny_sd_path))
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_words_of_motions_learn_and_no_other_row_moves(cache: Path, tiny_sd_path: Path, tmp_path: Path) -> None:
    still, moving = ["a photo of a red robot in the snow"], ["a red robot spinning", "a red robot jumping"]
    image = load_backbone(tiny_sd_path, device="cpu", precision="fp32")
    assert isinstance(image, AbstractUnetBackbone)
    before = [image.encode_prompt(prompts).states for prompts in (still, moving)]
    words = MotionWords(image)
    assert torch.equal(image.encode_prompt(moving).states, before[1]), "they start as the base has them"
    with torch.no_grad():
        words.change.add_(0.05)
    assert not torch.equal(image.encode_prompt(moving).states, before[1])
    image.encode_prompt(moving).states.square().sum().backward()
    assert words.change.grad is not None
    assert words.change.grad.abs().amax() > 0
    words.save(tmp_path / "words.safetensors")
    encoder = tmp_path / "text_encoder.safetensors"
    shutil.copy(next((tiny_sd_path / "text_encoder").glob("*.safetensors")), encoder)
    old = load_file(encoder)
    teach_words(encoder, tmp_path / "words.safetensors")
    new = load_file(encoder)
    moved = {key for key in old if not torch.equal(old[key], new[key])}
    assert moved == {key for key in old if key.endswith("token_embedding.weight")}
    rows = {index for key in moved for index in (old[key] != new[key]).any(1).nonzero().flatten().tolist()}
    assert rows == set(words.ids)


def test_only_words_that_stills_never_say_may_move() -> None:
    assert {"spinning", "jumping", "left", "right"} <= set(motion_words())
    assert not {"in", "the"} & set(motion_words()), "stills are in the snow"


def test_what_clips_need_is_exported_beside_the_base(cache: Path, tiny_sd_path: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no motion reader and no motion adapter"):
        export_clips(TINY, SilentReporter(), tmp_path)
    shutil.copytree(tiny_sd_path, tmp_path / "base")
    encoder = next((tmp_path / "base" / "text_encoder").glob("*.safetensors"))
    train_motion(TINY, 2, None, SilentReporter(), base=tmp_path / "base")
    before = encoder.read_bytes()
    export_clips(TINY, SilentReporter(), tmp_path)
    assert encoder.read_bytes() != before
    assert {path.name for path in (tmp_path / "motion").iterdir()} >= {"config.json", "README.md"}
    assert not (tmp_path / "motion" / WORDS).exists(), "its rows are in the base's own table"
    weights = load_file(next((tmp_path / "motion").glob("*.safetensors")))
    assert {tensor.dtype for tensor in weights.values()} == {torch.float16}


def _unet_file(folder: Path) -> str:
    return next(path.name for path in (folder / "unet").glob("*.safetensors"))


def test_clip_latents_are_encoded_once_per_autoencoder(cache: Path, tiny_sd_path: Path) -> None:
    image = load_backbone(tiny_sd_path, device="cpu", precision="fp32")
    data, path = load_clips(TINY), cache / "latents.safetensors"
    latents = clip_latents(image, data, path, SilentReporter())
    side = 32 // image.vae_factor
    assert latents.shape == (24, image.latent_channels, FRAMES, side, side)
    single, _ = image.encode_posterior(data.pixels(torch.tensor([3]))[0, 2:3])
    torch.testing.assert_close(latents[3, :, 2].float(), single[0], rtol=0, atol=5e-3)
    written = path.stat().st_mtime_ns
    assert torch.equal(clip_latents(image, data, path, SilentReporter()), latents)
    assert path.stat().st_mtime_ns == written
    with torch.no_grad():
        next(iter(image.vae.encoder.parameters())).add_(1.0)  # type: ignore[attr-defined]
    clip_latents(image, data, path, SilentReporter())
    assert path.stat().st_mtime_ns != written


def test_a_base_of_another_resolution_is_refused(cache: Path, tiny_sd_path: Path) -> None:
    with pytest.raises(InputError, match="generation's data have 64"):
        train_motion(Settings(resolution=64), 1, None, SilentReporter(), base=tiny_sd_path)


def test_the_reader_is_measured_on_clips_it_has_not_seen(cache: Path) -> None:
    run("motion_reader", TINY, 2, None, SilentReporter())
    clips, images = held_out_clips(6, 32)
    assert images.shape == (6, FRAMES, 3, 32, 32)
    figures = measure_motion_reader(TINY.folder / "models" / "motion_reader", clips, images)
    assert [figure.metric for figure in figures] == ["reader/motion", "reader/still"]
    assert all(figure.n == 6 and 0 <= figure.value <= 1 for figure in figures)
