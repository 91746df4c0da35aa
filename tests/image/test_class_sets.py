"""Which class images recipes get: how many, of which captions, how large."""

import dataclasses

import pytest
import torch

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.class_images import ClassImages
from pcs_ext.image.class_sets import class_images_of, shares
from pcs_ext.image.recipes import RECIPES, Recipe
from pcs_ext.image.sample import SampleConfig
from pcs_ext.reporter import SilentReporter


def quick(recipe: str) -> Recipe:
    """The toybox preset with three class images of few steps."""
    sampling = SampleConfig(num_inference_steps=2, guidance_scale=2.0)
    return dataclasses.replace(RECIPES[recipe].build("dog", "toybox"), class_images=3, sampling=sampling)


def test_class_images_may_have_many_captions(sd: AbstractBackbone) -> None:
    assert shares(7, 3) == [3, 2, 2]
    assert shares(2, 3) == [1, 1, 0]
    recipe = quick("he-data-perspective")
    images = class_images_of(recipe, sd, 0, SilentReporter())
    assert isinstance(images, ClassImages)
    assert images.prompts == [recipe.concept.class_prompt(template) for template in recipe.class_templates[:3]]
    assert len(set(recipe.class_templates)) == 64
    batch = images.batch(20, torch.Generator().manual_seed(0))
    for key, caption in zip(batch.keys or (), batch.captions, strict=True):
        assert images.prompts[int(key.removeprefix("class/"))] == caption


@pytest.mark.parametrize("aspect", [1, 2])
def test_class_images_are_as_large_as_photos_in_training(sd: AbstractBackbone, aspect: int) -> None:
    recipe = quick("dreambooth-lora")
    large = dataclasses.replace(recipe.sampling, height=64, width=64)
    augmentation = dataclasses.replace(recipe.augmentation, aspect=aspect)
    recipe = dataclasses.replace(recipe, sampling=large, augmentation=augmentation)
    images = class_images_of(recipe, sd, 0, SilentReporter())
    assert isinstance(images, ClassImages)
    batch = images.batch(2, torch.Generator().manual_seed(0))
    assert batch.images.shape == (2, 3, sd.resolution, sd.resolution * aspect)
