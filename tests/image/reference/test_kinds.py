"""What every system of reference adapters must do: learn, be stored, act beside prompts and leave no trace."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor

from pcs_ext.config_io import write_json
from pcs_ext.errors import (
    ArtifactError,
    CheckpointError,
    Interrupted,
    ModelError,
    UsageError,
)
from pcs_ext.image.adapters import FullAdapter
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import find_photos
from pcs_ext.image.fit import FitConfig, fit
from pcs_ext.image.reference import REFERENCES
from pcs_ext.image.reference.base import AbstractReferenceAdapter
from pcs_ext.image.reference.files import OTHER_WEIGHTS, ReferenceConfig, open_adapter, read_settings, save_adapter
from pcs_ext.image.reference.kinds import adapter_class
from pcs_ext.image.reference.learn import learn_reference, parameter_groups
from pcs_ext.image.reference.maps import MapKinds, channels
from pcs_ext.image.reference.pairs import PairData
from pcs_ext.image.reference.reference import Reference, show
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.reference.systems.e4t import E4TConfig
from pcs_ext.image.reference.training import ReferenceLoss, ReferenceTraining
from pcs_ext.image.reference.tune import tune_reference
from pcs_ext.image.sample import SampleConfig, sample
from pcs_ext.reporter import SilentReporter
from tests.support.encoders import tiny_resnet
from tests.support.learning import train_until
from tests.support.tiny import tiny_backbone
from tests.support.tiny_albums import albums
from tests.support.tiny_reference import TINY, at_random, eye_of, tiny_system

PROMPTS = ["a photo of the dog", "red dog on beach"]
SYSTEMS = [system for system, entry in REFERENCES.items() if adapter_class(entry.adapter).sees != "nothing"]
"""Those that are shown pictures: what the others must do, their own tests ask."""
PACES = {
    "e4t": (250, 5e-3), "bootpig": (30, 4e-3), "uni-controlnet": (15, 1e-2), "context-diffusion": (45, 1e-2),
    "hyperdreambooth": (30, 1e-2), "domain-agnostic-encoder": (12, 2e-2), "dreamtuner": (12, 2e-2),
    "re-imagen": (15, 2e-2), "suti": (15, 2e-2), "lambda-eclipse": (15, 2e-2), "versatile-diffusion": (20, 1e-2),
    "kosmos-g": (30, 1e-2), "emu2": (20, 1e-2), "facestudio": (15, 2e-2), "stellar": (40, 1e-2),
    "instantid": (30, 1e-2), "taming-encoder": (30, 1e-2), "cafe": (80, 1e-2),
    "identity-encoder": (40, 1e-2), "pe-viton": (20, 1e-2),
}  # fmt: skip
"""Steps and rates of those that others do not suit: E4T's offset counts a tenth and passes through the text encoder,
BootPIG trains a whole denoiser; Uni-ControlNet's parts are quick; some need few steps, which are slow."""
WORDS = (
    "uni-controlnet", "context-diffusion", "dreamidentity", "face2diffusion", "profusion", "umm-diffusion", "kosmos-g",
    "stellar",
)  # fmt: skip
"""Systems that tell of photos by nothing but words, or tokens that are read as such."""
QUICK = (
    *WORDS, "face0", "idadapter", "infinite-id", "pva", "ms-diffusion", "customcontrast", "styleadapter", "artadapter",
    "kim-sod-cnn", "subject-diffusion", "retrinet", "anydoor", "instantfamily", "moma", "customnet", "omni-id",
)  # fmt: skip
"""Systems that need half of the steps."""
OTHERS = [system for system in SYSTEMS if system != "ip-adapter"]


def sight_of(encoder: Any, *, count: int = 2, pictures: int = 1) -> Sight:
    """Of random pictures, `count pictures ...`, the left half of each being what it is shown for."""
    images = torch.rand(count * pictures, 3, 40, 40, generator=torch.Generator().manual_seed(0)) * 2 - 1
    masks = torch.zeros(count * pictures, 1, 40, 40)
    masks[..., :20] = 1
    seen = encoder.sight(images, masks, cut=encoder.sees != "embedding")
    # What some systems see besides, by the base and of details, is there for all.
    latents = torch.randn(count * pictures, 4, 8, 8, generator=torch.Generator().manual_seed(6))
    cells = torch.zeros(count * pictures, 8, 8).index_fill(2, torch.arange(4), 1.0)
    seen = dataclasses.replace(seen, latents=latents, cells=cells, detail=images[..., :8, :8])
    return seen.map(lambda tensor: tensor.unflatten(0, (count, pictures)))


def shown(encoder: Any, *, pictures: int = 1, noun: str = "dog") -> Shown:
    return Shown(sight=sight_of(encoder, pictures=pictures), nouns=((noun,) * pictures,) * 2)


def latents() -> tuple[Tensor, Tensor]:
    return torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(4)), torch.tensor([300, 20])


def predicted(
    sd: AbstractBackbone, adapter: AbstractReferenceAdapter, pictures: Shown, scale: float = 1.0, prompts=PROMPTS
) -> Tensor:
    with torch.no_grad(), adapter.inserted(sd, scale):
        return sd.predict(*latents(), adapter.conditioned(sd, sd.encode_prompt, prompts, pictures, scale=scale))


def test_every_system_has_a_tiny_one() -> None:
    assert set(TINY) == set(REFERENCES)
    assert all(entry.settings("toybox").adapter is not None for entry in REFERENCES.values())
    assert all(entry.settings("other").adapter == entry.adapter for entry in REFERENCES.values())
    assert len({entry.system for entry in REFERENCES.values()}) == len(REFERENCES)


@pytest.mark.parametrize("family", ["sd", "sdxl"])
@pytest.mark.parametrize("system", SYSTEMS)
def test_pictures_matter_and_at_strength_0_the_base_answers_to_the_bit(
    system: str, family: str, eye: Path, request: pytest.FixtureRequest
) -> None:
    backbone: AbstractBackbone = request.getfixturevalue(family)
    adapter, encoder = tiny_system(system, backbone, eye)
    at_random(adapter, backbone)
    adapter.eval().requires_grad_(False)
    before = backbone.encode_prompt(PROMPTS)
    plain = backbone.predict(*latents(), before).detach()
    pictures = shown(encoder)
    full = predicted(backbone, adapter, pictures)
    assert (full - plain).abs().mean() > 1e-3
    assert torch.equal(predicted(backbone, adapter, pictures, 0.0), plain)
    half = predicted(backbone, adapter, pictures, 0.5)
    assert not torch.equal(half, full)
    assert torch.equal(backbone.predict(*latents(), backbone.encode_prompt(PROMPTS)).detach(), plain), "a trace stayed"
    swapped = Shown(sight=pictures.sight.map(lambda tensor: tensor.flip(0)), nouns=pictures.nouns)
    assert (predicted(backbone, adapter, swapped) - full).abs().flatten(1).amax(1).min() > 1e-4


@pytest.mark.parametrize("system", OTHERS)
def test_a_row_depends_on_its_own_prompt_and_pictures(system: str, sd: AbstractBackbone, eye: Path) -> None:
    adapter, encoder = tiny_system(system, sd, eye)
    at_random(adapter, sd)
    adapter.eval().requires_grad_(False)
    pictures, (noisy, timesteps) = shown(encoder, pictures=2), latents()
    with torch.no_grad(), adapter.inserted(sd):
        both = adapter.conditioned(sd, sd.encode_prompt, PROMPTS, pictures)
        together = sd.predict(noisy, timesteps, both)
        for row in range(2):
            alone = sd.predict(noisy[row : row + 1], timesteps[row : row + 1], both[[row]])
            torch.testing.assert_close(alone[0], together[row], atol=2e-5, rtol=0)
        # One row that sees nothing: what stands beside it must not change it.
        seen = Shown(sight=pictures.sight, nouns=pictures.nouns, seen=torch.tensor([True, False]))
        mixed = sd.predict(noisy, timesteps, adapter.conditioned(sd, sd.encode_prompt, PROMPTS, seen))
        torch.testing.assert_close(mixed[0], together[0], atol=2e-5, rtol=0)
        # Their rows without pictures look at what the encoder makes of none, or are read by a language model, too.
        if system not in ("ssr-encoder", "kosmos-g", "emu2"):
            told = sd.predict(noisy, timesteps, sd.encode_prompt(PROMPTS))
            torch.testing.assert_close(mixed[1], told[1], atol=2e-5, rtol=0)


@pytest.mark.parametrize("system", SYSTEMS)
def test_it_learns_what_only_the_reference_tells_and_the_base_stays(system: str, eye: Path, tmp_path: Path) -> None:
    """A bright and a dark subject whose captions are one: told by the photo which it is, the base is right about it.

    Velocity in much noise is mostly the clean picture's negative, so whoever does not look at the photo is half wrong.
    """
    sd = tiny_backbone(tmp_path / "sd", prediction_type="v_prediction")
    adapter, encoder = tiny_system(system, sd, eye)
    one = opposite(sight_of(encoder).map(lambda tensor: tensor[:, 0]))
    data = bright_and_dark(one)
    data = with_layouts(data, adapter.map_kinds) if adapter.map_kinds else data
    full = any(isinstance(own, FullAdapter) for own in adapter.inside)
    steps, rate = PACES.get(system, (30 if system in QUICK else 60, 1e-2))
    settings = ReferenceTraining(
        batch_size=8, drop_image=0.0, drop_text=0.0, drop_both=0.0, masked=0.5, photos=2, learning_rate=rate,
        base_learning_rate=1e-3 if full else 1e-2,
    )  # fmt: skip
    # Some systems do not look at photos in the first fifth.
    late = lambda batch, generator: torch.randint(700, 790, (batch,), generator=generator)  # noqa: E731
    blank = one.map(lambda tensor: torch.zeros_like(tensor[0]))
    loss = ReferenceLoss(sd, adapter, data, settings, blank, draw_timesteps=late, encoder=encoder)
    base = [parameter.clone() for parameter in sd.denoiser.parameters()]
    # Words alone move a base that is frozen as a whole less: these gains were there after 40 steps and did not grow.
    told = functools.partial(tells_apart, sd, adapter, data, one, by=0.012 if system in WORDS else 0.1)
    adapter.train()
    with adapter.inserted(sd):
        for stage in adapter.stages:
            adapter.begin_stage(stage.name)
            groups = parameter_groups(adapter, stage, settings)
            before = held_out(loss)
            learned = lambda: told() and held_out(loss) < 0.99 * before  # noqa: B023, E731
            # Earlier stages prepare the last one, which ends as soon as nothing is left to ask of it.
            asked = learned if stage == adapter.stages[-1] else None
            train_until(asked, fit(loss, groups, FitConfig(steps=steps)), every=5)
            assert held_out(loss) < 0.99 * before, stage.name
            assert all(p.grad is not None for group in groups for p in group.parameters), stage.name
    with adapter.inserted(sd):  # once more
        assert told()
    assert all(torch.equal(a, b) for a, b in zip(base, sd.denoiser.parameters(), strict=True))


def opposite(sight: Sight) -> Sight:
    """Two pictures whose features are each other's negatives."""
    features = torch.randn(sight.features[:1].shape, generator=torch.Generator().manual_seed(3))
    if features.dim() == 4 and features.shape[1] == 4:  # latents, of which the mean is what a bright picture has
        features = 0.5 * features + 1
    both = torch.cat([features, -features])
    bright = torch.tensor([0.4, -0.4])[:, None, None, None].expand(2, 4, 8, 8).clone()
    return dataclasses.replace(
        sight, features=both, cut=None if sight.cut is None else both, latents=bright, detail=None
    )


def bright_and_dark(one: Sight) -> PairData:
    """Three pictures of a bright subject and three of a dark one, whose captions do not tell them apart."""
    rows = torch.tensor([0, 0, 0, 1, 1, 1])
    return PairData(
        latents=torch.tensor([0.4] * 3 + [-0.4] * 3)[:, None, None, None].expand(6, 4, 8, 8).clone(),
        features=one.features[rows], cut=None if one.cut is None else one.cut[rows],
        cover=None if one.cover is None else one.cover[rows], detail=torch.zeros(6, 3, 8, 8),
        captions=[("a photo of the dog",)] * 6,
        groups=torch.arange(6).reshape(2, 3).unbind(0), nouns=[("dog",), ("dog",)],
        masks=torch.zeros(6, 1, 8, 8).index_fill(3, torch.arange(4), 1.0), shows_latents=True,
    )  # fmt: skip


def with_layouts(data: PairData, kinds: MapKinds) -> PairData:
    """The same pictures with a bright half in one channel, of which maps tell which half it is, and photos do not."""
    half = torch.zeros(6, 8, 8)
    half[:, :, :4] = 1
    half[1::2] = half[1::2].flip(2)
    latents = data.latents.clone()
    latents[:, 3] = 0.8 * half - 0.4
    pixels = half.repeat_interleave(4, 1).repeat_interleave(4, 2)[:, None].expand(-1, channels(kinds), -1, -1)
    return dataclasses.replace(data, latents=latents, maps=(255 * pixels).to(torch.uint8))


@torch.no_grad()
def held_out(loss: ReferenceLoss) -> float:
    """The loss of batches that are always the same."""
    return sum(float(loss(0, 0, torch.Generator().manual_seed(100 + seed)).total) for seed in range(4))


@torch.no_grad()
def tells_apart(
    sd: AbstractBackbone, adapter: AbstractReferenceAdapter, data: PairData, one: Sight, *, by: float
) -> bool:
    """Whether the right photo makes the base less wrong than the other one, by more than `by`."""
    training = adapter.training
    adapter.eval()
    right, wrong = (_error(sd, adapter, data, one, order) for order in ([0, 1], [1, 0]))
    adapter.train(training)
    return right + by < wrong


@torch.no_grad()
def _error(sd: AbstractBackbone, adapter: AbstractReferenceAdapter, data: PairData, one: Sight, order: list[int]):
    """Mean square error of the velocity, the photos shown in some order; the adapter is inserted."""
    draws, clean = 16, data.latents[[0, 3]].repeat(16, 1, 1, 1)
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(9))
    timesteps = torch.full((2 * draws,), 745)
    pictures = Shown(sight=one.map(lambda tensor: tensor[order * draws].unsqueeze(1)), nouns=(("dog",),) * 2 * draws)
    told = adapter.conditioned(sd, sd.encode_prompt, ["a photo of the dog"] * 2 * draws, pictures)
    answer = sd.predict(sd.schedule.add_noise(clean, noise, timesteps), timesteps, told)
    kept = sd.schedule.alphas_cumprod[745]
    return float((answer - (kept.sqrt() * noise - (1 - kept).sqrt() * clean)).square().mean())


def said(system: str, backbone: AbstractBackbone, encoder: Any, eye: Path) -> ReferenceConfig:
    return ReferenceConfig(
        kind=system, adapter=TINY[system], encoder=str(eye_of(system, eye)), encoder_digest=encoder.digest,
        base=backbone.name, base_fingerprint=backbone.fingerprint, family=backbone.family, steps=1,
    )  # fmt: skip


@pytest.mark.parametrize("system", SYSTEMS)
def test_stored_and_opened_again_it_draws_the_same_pictures(
    system: str, sd: AbstractBackbone, eye: Path, photos: Path, tmp_path: Path
) -> None:
    adapter, encoder = tiny_system(system, sd, eye)
    at_random(adapter, sd)
    save_adapter(adapter, said(system, sd, encoder, eye), tmp_path / "ours", half=False)
    adapter.eval().requires_grad_(False)
    nouns = ("dog",) if adapter.asks_noun else ()
    opened = show(sd, find_photos([photos / "0.png"]), adapter=str(tmp_path / "ours"), nouns=nouns)
    held = Reference(
        opened=type(opened.opened)(adapter=adapter, encoder=encoder), sight=opened.sight, nouns=opened.nouns
    )  # fmt: skip
    config = SampleConfig(scheduler="ddim", num_inference_steps=3, guidance_scale=3.0)
    with torch.inference_mode():
        made = [sample(sd, PROMPTS, seeds=[1, 2], config=config, hooks=one.hooks(sd)) for one in (held, opened)]
        plain = sample(sd, PROMPTS, seeds=[1, 2], config=config)
    assert torch.equal(*made)
    assert not torch.allclose(made[0], plain, atol=1e-3)
    names = {path.name for path in (tmp_path / "ours").iterdir()}
    assert names == {"config.json", "ip_adapter.safetensors" if system == "ip-adapter" else OTHER_WEIGHTS}


class Stopping(SilentReporter):
    """Presses Ctrl-C at a step of a task."""

    def __init__(self, task: str, step: int) -> None:
        self.at = task, step

    def progress(self, task: str, step: int, total: int, **values: float) -> None:
        if (task, step) == self.at:
            raise KeyboardInterrupt


@pytest.mark.parametrize("system", ["elite", "fastcomposer", "hyperdreambooth", "omni-id", "kosmos-g"])
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(
    system: str, eye: Path, tiny_sd_path: Path, tmp_path: Path
) -> None:
    pairs = albums(tmp_path / "pairs", couples=1 if system == "fastcomposer" else 0)
    settings = REFERENCES[system].training
    write_json(
        tmp_path / "tiny.json", {"adapter": TINY[system], "steps": 6, "batch_size": 2, "masked": settings.masked}
    )
    asked: dict[str, Any] = {
        "system": system, "base": str(tiny_sd_path), "encoder": str(eye), "device": "cpu", "precision": "fp32",
        "config": tmp_path / "tiny.json",
    }  # fmt: skip
    second = {
        "elite": "learn reference (local)", "hyperdreambooth": "learn reference (hypernetwork)",
        "omni-id": "learn reference (masked)", "kosmos-g": "learn reference (instruct)",
    }  # fmt: skip
    task = second.get(system, "learn reference")
    with pytest.raises(Interrupted, match="same command goes on"):
        learn_reference(pairs, tmp_path / "resumed", **asked, reporter=Stopping(task, 2))
    assert (tmp_path / "resumed.training").is_dir()
    learn_reference(pairs, tmp_path / "resumed", **asked)
    learn_reference(pairs, tmp_path / "straight", **asked)
    resumed, straight = (load_file(tmp_path / name / OTHER_WEIGHTS) for name in ("resumed", "straight"))
    assert all(torch.equal(resumed[key], straight[key]) for key in straight)
    assert not (tmp_path / "resumed.training").exists()


def test_adapters_of_another_base_or_encoder_are_refused(
    sd: AbstractBackbone, sdxl: AbstractBackbone, eye: Path, tmp_path: Path
) -> None:
    for system, message in (("photomaker", "do not fit this base"), ("fastcomposer", "holds weights of")):
        adapter, encoder = tiny_system(system, sd, eye)
        at_random(adapter, sd)
        save_adapter(adapter, said(system, sd, encoder, eye), tmp_path / system, half=True)
        with pytest.raises(ArtifactError, match=message):
            open_adapter(sdxl, str(tmp_path / system))
    (tmp_path / "photomaker" / "config.json").unlink()
    with pytest.raises(ArtifactError, match="expected an IP-Adapter"):
        open_adapter(sd, str(tmp_path / "photomaker"))
    with pytest.raises(ModelError, match="reads layers of a transformer, and a resnet is convolutional"):
        tiny_system("elite", sd, tiny_resnet(tmp_path / "net"))


def test_nouns_are_asked_for_and_must_be_in_the_prompt(
    sd: AbstractBackbone, eye: Path, photos: Path, tmp_path: Path
) -> None:
    from pcs_ext.image.reference.reference import generate

    adapter, encoder = tiny_system("photomaker", sd, eye)
    with adapter.inserted(sd):
        pass
    save_adapter(adapter, said("photomaker", sd, encoder, eye), tmp_path / "ours", half=False)
    two = [photos / "0.png", photos / "1.png"]
    asked: dict[str, Any] = {"adapter": str(tmp_path / "ours"), "base": sd, "steps": 1}
    for prompt, nouns, message in (
        ("a photo of the dog", (), "must know which word"),
        ("a photo of the cat", ("dog",), "does not name the dog"),
        ("a photo of the dog", ("dog", "dog", "dog"), "3 words for 2 photos"),
        ("the dog and the cat", ("dog", "cat"), r"shows one subject at a time.*\(fastcomposer, .*ssr-encoder.*, moa"),
    ):
        with pytest.raises(UsageError, match=message):
            generate(prompt, two, nouns=nouns, **asked)
    image = generate("a photo of the dog", two, nouns=["dog"], **asked)[0]
    assert isinstance(image.image, Image.Image)


def test_tuned_to_one_photo_it_is_an_adapter_of_its_own(
    sd: AbstractBackbone, eye: Path, photos: Path, tmp_path: Path
) -> None:
    adapter, encoder = tiny_system("e4t", sd, eye)
    at_random(adapter, sd)
    save_adapter(adapter, said("e4t", sd, encoder, eye), tmp_path / "ours", half=False)
    asked: dict[str, Any] = {"noun": "dog", "batch_size": 2, "device": "cpu", "precision": "fp32"}
    tune_reference(tmp_path / "ours", photos / "0.png", tmp_path / "rex", steps=3, learning_rate=1e-3, **asked)
    before, after = (load_file(tmp_path / name / OTHER_WEIGHTS) for name in ("ours", "rex"))
    assert {key for key in after if key not in before} == {f"inside.2.denoiser.{k}" for k in sd.denoiser.state_dict()}
    assert all(not torch.equal(before[key], after[key]) for key in before)
    settings = read_settings(tmp_path / "rex")
    assert isinstance(settings.adapter, E4TConfig)
    assert (settings.adapter.denoiser, settings.adapter.offset_weight, settings.steps) == (True, 0.1, 4)
    reference = show(sd, find_photos(photos / "0.png"), adapter=str(tmp_path / "rex"), nouns=("dog",))
    with torch.inference_mode():
        config = SampleConfig(scheduler="ddim", num_inference_steps=2, guidance_scale=2.0)
        sample(sd, PROMPTS[:1], seeds=[1], config=config, hooks=reference.hooks(sd))
    with pytest.raises(Interrupted):
        tune_reference(tmp_path / "ours", photos / "0.png", tmp_path / "other", **asked,
                       reporter=Stopping("learn reference", 1))  # fmt: skip
    with Image.open(photos / "0.png") as image:
        Image.new("L", image.size, 255).save(photos / "0_mask.png")
    with pytest.raises(CheckpointError, match="made by other settings"):
        tune_reference(tmp_path / "ours", photos / "0.png", tmp_path / "other", **asked)
    (photos / "0_mask.png").unlink()
    with pytest.raises(UsageError, match="is the adapter itself"):
        tune_reference(tmp_path / "ours", photos / "0.png", tmp_path / "ours", overwrite=True, **asked)
    with pytest.raises(ModelError, match="is no adapter of ours"):
        tune_reference(photos, photos / "0.png", tmp_path / "other", **asked)
