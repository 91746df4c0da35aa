"""Words of single photos: each caption its own, trained where their photo is shown, and gone from the artifact."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import EmbeddingConfig
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.data import SubjectDataset, find_photos
from pcs_ext.image.learn import learn
from pcs_ext.image.photo_contexts import with_contexts
from pcs_ext.image.recipes import RECIPES, PhotoContext, Recipe
from pcs_ext.image.sample import SampleConfig


def quick() -> Recipe:
    recipe = RECIPES["dci"].build("dog", "toybox")
    sampling = SampleConfig(num_inference_steps=2, guidance_scale=2.0)
    return dataclasses.replace(recipe, class_images=2, sampling=sampling).with_steps(3)


def test_every_photo_has_words_of_its_own(photos: Path) -> None:
    recipe, captioned = with_contexts(quick(), find_photos(photos))
    contexts = {name: config for name, config in recipe.adapters.items() if name.startswith("context_")}
    assert list(contexts) == [f"context_{photo}_{place}" for photo in (1, 2, 3) for place in (1, 2)]
    starts = [config.initializer for config in contexts.values() if isinstance(config, EmbeddingConfig)]
    assert starts == ["photo", "of"] * 3
    assert recipe.phases[0].learning_rates["context_3_2"] == recipe.phases[0].learning_rates["word"]
    recipe.validate()
    data = SubjectDataset(captioned, recipe.concept, resolution=32, augmentation=recipe.augmentation)
    batch = data.batch(3, torch.Generator().manual_seed(0))
    assert set(batch.captions) == {f"<photo-{n}-1> <photo-{n}-2> a <subject> dog" for n in (1, 2, 3)}
    plain = RECIPES["custom-diffusion"].build("dog", "toybox")
    same, untouched = with_contexts(plain, find_photos(photos))
    assert same is plain
    assert all(photo.caption is None for photo in untouched)
    taken = dataclasses.replace(quick(), adapters={**quick().adapters, "context_x": EmbeddingConfig()})
    with pytest.raises(ConfigError, match="named like a photo's context"):
        with_contexts(taken, find_photos(photos))
    with pytest.raises(ConfigError, match="one word or more"):
        PhotoContext(words=(), learning_rate=1.0)


def test_they_train_and_are_thrown_away(sd: AbstractBackbone, photos: Path, tmp_path: Path, monkeypatch) -> None:
    from pcs_ext.image import learn as learning

    runs = []
    kept = learning._artifact
    monkeypatch.setattr(learning, "_artifact", lambda run, found, losses: runs.append(run) or kept(run, found, losses))
    artifact = learn(photos, noun="dog", output=tmp_path / "rex", recipe=quick(), base=sd, seed=1)
    assert set(artifact.data.adapters) == set(artifact.data.tensors) == {"word", "keys_values"}
    (run,) = runs
    moved = {
        name: not torch.equal(adapter.state_dict()["text_encoder.weight"], adapter.state_dict()["text_encoder.initial"])
        for name, adapter in run.adapters.items()
        if name.startswith("context_")
    }
    assert all(moved.values()), "three steps of four photos each show all three"
    assert len(artifact.generate("a photo of {subject}", seeds=[0], base=sd)) == 1
