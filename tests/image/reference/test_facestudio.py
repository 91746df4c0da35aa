"""FaceStudio: tokens in the text's place, looks from words and style pictures, and a prior that learns alone."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pcs_ext.errors import ConfigError, UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import find_photos
from pcs_ext.image.reference.albums import read_subjects
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.encoder import open_encoder
from pcs_ext.image.reference.files import OpenedAdapter, reading_of
from pcs_ext.image.reference.kinds import build_adapter
from pcs_ext.image.reference.looks import looks
from pcs_ext.image.reference.pairs import encode_subjects
from pcs_ext.image.reference.prior import text_contrast
from pcs_ext.image.reference.reference import seen_by
from pcs_ext.image.reference.shown import Sight
from pcs_ext.image.reference.systems.facestudio import FaceStudio, FaceStudioConfig
from pcs_ext.image.reference.training import ReferenceLoss, ReferenceTraining
from pcs_ext.image.sample import SampleConfig, sample
from pcs_ext.image.types import Conditioning
from pcs_ext.reporter import SilentReporter
from tests.image.reference.test_kinds import bright_and_dark, opposite
from tests.support.encoders import tiny_clip
from tests.support.tiny_albums import albums
from tests.support.tiny_conditions import NOISY, PROMPTS, TIMES, pictures, predicted, system
from tests.support.tiny_reference import TINY, WIDTH, at_random, drawn, nothing_denoised, tiny_system


@torch.no_grad()
def test_tokens_stand_in_the_texts_place_and_words_are_heard_by_the_prior_alone(
    sd: AbstractBackbone, eye: Path
) -> None:
    adapter, _ = tiny_system("facestudio", sd, eye)
    assert isinstance(adapter, FaceStudio)
    adapter.eval()
    for parameters in adapter.groups()["prior"]:
        parameters.add_(0.1 * torch.randn(parameters.shape, generator=torch.Generator().manual_seed(1)))
    shown = pictures(adapter, count=2)
    words = adapter.told_by_words(Asked(backbone=sd, encode=sd.encode_prompt, prompts=PROMPTS, shown=shown))
    assert (words[0] - words[1]).abs().max() > 1e-3
    style = drawn(2, 1, WIDTH, seed=8)
    for given, expected in ((None, words), (style, 0.5 * words + 0.5 * style[:, 0])):
        asked = dataclasses.replace(shown, style=given)
        made = predicted(sd, adapter, asked)
        # Keys and values are still the base's own: the same as a text of these states and no other.
        tokens = torch.cat([adapter.look(expected), adapter.face(shown.sight.features.mean(1))], dim=1)
        plain = sd.predict(NOISY, TIMES, Conditioning(states=tokens))
        torch.testing.assert_close(made, plain, atol=2e-5, rtol=0)
    adapter.prior.out.weight.zero_()
    torch.testing.assert_close(predicted(sd, adapter, shown), predicted(sd, adapter, shown, ["red toy", "hat"]))
    assert adapter.tokens_of(words, words).shape == (2, 4, 16)


@torch.no_grad()
def test_tokens_learn_from_their_own_look_and_the_prior_without_the_denoiser(sd: AbstractBackbone, eye: Path) -> None:
    adapter: FaceStudio = system("facestudio", sd, eye)
    shown, style = pictures(adapter), drawn(2, 1, WIDTH, seed=8)
    asked = Asked(backbone=sd, encode=sd.encode_prompt, prompts=PROMPTS, shown=dataclasses.replace(shown, style=style))
    adapter.train().begin_stage("guidance")
    assert torch.equal(adapter.looks_of(asked), style[:, 0])
    assert adapter.looks_of(dataclasses.replace(asked, shown=shown)).abs().max() == 0
    assert adapter.denoises
    adapter.begin_stage("prior")
    assert not adapter.denoises


def test_the_priors_errors_are_the_distance_and_the_contrast(sd: AbstractBackbone, tmp_path: Path) -> None:
    encoder = open_encoder(tiny_clip(tmp_path / "clip"), "embedding")
    adapter = build_adapter(TINY["facestudio"], sd, reading_of(encoder), seed=0)
    assert isinstance(adapter, FaceStudio)
    at_random(adapter, sd)
    sight = opposite(Sight(features=drawn(1, encoder.width)))
    data = dataclasses.replace(bright_and_dark(sight), looks=drawn(6, encoder.width, seed=4))
    settings = ReferenceTraining(batch_size=8, drop_image=0.0, drop_text=0.0, drop_both=0.0)
    loss = ReferenceLoss(sd, adapter, data, settings, sight.map(lambda x: 0 * x[0]), encoder=encoder)
    adapter.train()
    drawn_pairs = loss._drawn(torch.Generator().manual_seed(0))
    assert drawn_pairs.shown.style is not None
    told = loss._styled(torch.ones(4000, 1, 3), torch.Generator().manual_seed(0))
    assert told is not None
    assert told[:, 0, 0].mean() == pytest.approx(0.36, abs=0.03), "0.64 of the looks are not told, each by itself"
    assert torch.equal(told.amin((1, 2)), told.amax((1, 2)))
    with adapter.inserted(sd):
        adapter.begin_stage("guidance")
        assert set(loss(0, 0, torch.Generator().manual_seed(0)).terms) == {"denoising"}
        adapter.begin_stage("prior")
        with nothing_denoised(sd):
            terms = loss(0, 0, torch.Generator().manual_seed(0)).terms
        assert set(terms) == {"projection", "contrast"}
        loss(0, 0, torch.Generator().manual_seed(0)).total.backward()
        assert all(p.grad is not None for p in adapter.groups()["prior"])
        assert all(p.grad is None for p in adapter.groups()["guidance"])
        asked = Asked(
            backbone=sd, encode=sd.encode_prompt, prompts=drawn_pairs.captions, shown=drawn_pairs.shown
        )  # fmt: skip
        words, shown = adapter.told_by_words(asked), drawn_pairs.shown
    assert shown.target is not None
    assert shown.texts is not None
    torch.testing.assert_close(terms["projection"], (words - shown.target[:, 0]).square().mean())
    torch.testing.assert_close(terms["contrast"], 0.2 * text_contrast(words, shown.texts, 0.07))


def test_a_look_is_what_is_around_the_subject(sd: AbstractBackbone, eye: Path, tmp_path: Path) -> None:
    pairs = albums(tmp_path / "pairs")
    encoder = open_encoder(eye, "embedding")
    data = encode_subjects(read_subjects(pairs), sd, encoder, SilentReporter(), styles=True)
    assert data.looks is not None
    assert data.looks.shape == data.features.shape
    photos = find_photos(pairs / "dog-album")
    first = photos[0]
    assert first.mask is not None
    other = dataclasses.replace(first, image=torch.where(first.mask > 0.5, -0.3, first.image))
    assert torch.equal(looks([first], encoder), looks([other], encoder))
    bare = dataclasses.replace(first, mask=None)
    torch.testing.assert_close(looks([bare], encoder), encoder(first.image[None]))
    together = looks([*photos, first], encoder)
    torch.testing.assert_close(together[-1:], looks([first], encoder), atol=1e-5, rtol=1e-4)
    style = data.draw(3, torch.Generator().manual_seed(0)).shown.style
    assert style is not None
    assert style.shape == (3, 1, WIDTH)


def test_a_style_picture_is_given_in_use_and_refused_by_others(sd: AbstractBackbone, eye: Path, photos: Path) -> None:
    adapter, encoder = tiny_system("facestudio", sd, eye)
    at_random(adapter, sd)
    adapter.eval().requires_grad_(False)
    opened, one = OpenedAdapter(adapter=adapter, encoder=encoder), find_photos(photos / "0.png")
    config = SampleConfig(scheduler="ddim", num_inference_steps=2, guidance_scale=2.0)
    made = []
    with torch.inference_mode():
        for style in (None, photos / "1.png", photos / "2.png"):
            seen = seen_by(opened, one, scale=1.0, nouns=(), style=style)
            made.append(sample(sd, PROMPTS[:1], seeds=[1], config=config, hooks=seen.hooks(sd)))
    assert all((a - b).abs().max() > 1e-3 for a, b in ((made[0], made[1]), (made[1], made[2])))
    with pytest.raises(UsageError, match="holds 3 photos; expected one picture"):
        seen_by(opened, one, scale=1.0, nouns=(), style=photos)
    other, _ = tiny_system("ip-adapter", sd, eye)
    with pytest.raises(UsageError, match="reads no style picture; leave out --reference-style"):
        seen_by(OpenedAdapter(adapter=other, encoder=encoder), one, scale=1.0, nouns=(), style=photos / "1.png")
    for wrong, message in (
        ({"width": 10}, "multiple of heads"),
        ({"guidance": 1.0}, "shares"),
        ({"temperature": 0.0}, "temperature"),
    ):
        with pytest.raises(ConfigError, match=message):
            FaceStudioConfig(**wrong)  # type: ignore[arg-type]
