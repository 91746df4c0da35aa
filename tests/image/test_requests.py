"""What is asked of `learn`: another word, captions of any length, averaged weights."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from pcs_ext.errors import ConfigError, PhotoError, UsageError
from pcs_ext.image.adapters import ImageWordsConfig, build_adapter
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import Augmentation, Photo, SubjectDataset
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.learn import learn
from pcs_ext.image.learned_photos import check_captions
from pcs_ext.image.photo_reader import reader_for
from pcs_ext.image.recipe_request import with_request
from pcs_ext.image.recipes import RECIPES, Recipe
from pcs_ext.image.training import PromptCache
from pcs_ext.reporter import SilentReporter


class Heard(SilentReporter):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def event(self, name: str, message: str = "", **fields: Any) -> None:
        self.said.append(message)


def recipe(name: str, noun: str = "dog") -> Recipe:
    return RECIPES[name].build(noun, "sd")


def test_another_word_reaches_all_that_names_it() -> None:
    learned = with_request(recipe("matsuda"), "<rex>", None)
    assert learned.concept.token == "<rex>"
    told = {name: config for name, config in learned.adapters.items() if hasattr(config, "regions")}
    assert [config.regions for config in told.values()] == [("<rex>",)]  # type: ignore[attr-defined]
    viewed = with_request(recipe("viewpoint-control"), "<rex>", None)
    assert "<subject>" not in repr(viewed)
    assert with_request(recipe("dreambooth"), "bqx", None).concept.token == "bqx"
    unlike = with_request(recipe("dreamartist"), "<rex>", None)
    assert (unlike.concept.token, unlike.concept.negative) == ("<rex>", recipe("dreamartist").concept.negative)


@pytest.mark.parametrize(
    ("name", "noun", "match"),
    [
        ("mix-of-show", "dog", "learns several words"),
        ("styleforge", "person", "learns several words"),
        ("break-a-scene", "robot, mug", "learns several words"),
        ("style-friendly", "flat vector art", "plain words 'flat vector art'; leave --token out"),
    ],
)
def test_a_word_that_has_no_single_place_is_refused(name: str, noun: str, match: str) -> None:
    with pytest.raises(UsageError, match=match):
        with_request(recipe(name, noun), "<rex>", None)


def test_what_photos_have_in_common_takes_two() -> None:
    image = torch.zeros(3, 32, 32)
    alone = Photo(path=Path("a.png"), image=image, mask=image[:1] + 1, before=image)
    with pytest.raises(PhotoError, match="needs two or more, got one"):
        recipe("adi", "robot").check_photos([alone])
    recipe("adi", "robot").check_photos([alone, alone])


def test_one_encoder_looks_at_photos() -> None:
    adapters = [
        build_adapter(name, ImageWordsConfig(placeholder=f"<{name}>", initializer="dog", encoder=encoder, width=64))
        for name, encoder in (("pose", "toybox"), ("ground", "other"))
    ]
    with pytest.raises(ConfigError, match=r"one encoder, got other \(64\) and toybox \(64\)"):
        reader_for(adapters, torch.device("cpu"))


def captioned(concept_of: Recipe, text: str) -> SubjectDataset:
    image = torch.zeros(3, 32, 32)
    photo = Photo(path=Path("a.png"), image=image, mask=image[:1] + 1, caption=text)
    return SubjectDataset([photo], concept_of.concept, resolution=32, augmentation=Augmentation())


def test_captions_that_write_a_learned_word_are_left_as_they_are() -> None:
    text = "a picture in <people> style"
    assert captioned(recipe("styleforge", "person"), text).caption(0, torch.Generator()) == text


def test_captions_that_are_cut_are_told_and_the_subject_is_never_cut_off(sd: AbstractBackbone) -> None:
    limit = sd.tokenizers[0].model_max_length - 2
    known = dataclasses.replace(
        recipe("dreambooth"), concept=dataclasses.replace(recipe("dreambooth").concept, token="sks")
    )
    filler, heard = " ".join(["red"] * limit), Heard()
    check_captions(captioned(known, "a photo of {subject}"), sd, heard)
    assert heard.said == []
    check_captions(captioned(known, f"{{subject}} in {filler}"), sd, heard)
    assert len(heard.said) == 1
    assert f"of which {limit} are read" in heard.said[0]
    with pytest.raises(PhotoError, match=r"'sks dog' stands behind these. Write \{subject\} further to the front"):
        check_captions(captioned(known, f"{filler} with {{subject}}"), sd, heard)


def test_averaged_weights_are_what_is_kept(sd: AbstractBackbone, photos: Path, tmp_path: Path) -> None:
    raw, averaged = (_moved(sd, photos, tmp_path / str(decay), decay) for decay in (None, 0.99))
    # Each of six steps goes 0.1 in every number, all one way; their average stays behind.
    assert 0 < averaged < 0.95 * raw


def _moved(sd: AbstractBackbone, photos: Path, output: Path, decay: float | None) -> float:
    """How far a word is from where it began."""
    full = RECIPES["textual-inversion"].build("dog", "toybox")
    phase = dataclasses.replace(
        full.phases[0], batch_size=1, fit=FitConfig(steps=6, ema_decay=decay), learning_rates={"word/embedding": 0.1}
    )
    made = learn(photos, noun="dog", output=output, base=sd, recipe=dataclasses.replace(full, phases=(phase,)))
    start = sd.text_encoders[0].get_input_embeddings().weight[sd.tokenizers[0]("dog").input_ids[1]]
    return float((made.data.tensors["word"]["text_encoder.weight"][0] - start.detach()).norm())


def test_prompts_are_told_the_size_of_the_pictures(sdxl: AbstractBackbone) -> None:
    told = PromptCache(sdxl, enabled=True)
    wide, square = told(["a dog"], (32, 64)), told(["a dog"])
    assert wide.time_ids is not None
    assert square.time_ids is not None
    assert wide.time_ids[0].tolist() == [32, 64, 0, 0, 32, 64]
    assert square.time_ids[0, :2].tolist() == [sdxl.resolution] * 2
    assert told(["a dog"], (32, 64)).time_ids is not None
