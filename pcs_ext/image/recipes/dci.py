"""Image-specific context optimisation (Jin et al. 2024, arXiv 2412.04831): Custom Diffusion without templates."""

import dataclasses

from pcs_ext.image.adapters import EmbeddingConfig
from pcs_ext.image.data import Augmentation
from pcs_ext.image.recipes.base import PhotoContext, Preset, Recipe
from pcs_ext.image.recipes.custom_diffusion import custom_diffusion


def dci(noun: str, preset: Preset) -> Recipe:
    """Two learned words for the subject, two for each photo that start at "photo of"; keys and values; class images.

    Photos' words take in what is theirs alone and are thrown away. Rates, batch and class images are Custom
    Diffusion's, as in the released code, whose runs on file end after about 900 steps; its random sizes and places,
    which have captions of their own, are left out. Sample with `image heed --method dci`. `toybox`: not measured yet.
    """
    small = preset == "toybox"
    recipe = custom_diffusion(noun, preset)
    (phase,) = recipe.phases
    rate = phase.learning_rates["word"]
    word = EmbeddingConfig(placeholder=recipe.concept.token, num_vectors=2, initializer="random")
    return dataclasses.replace(
        recipe,
        id="dci",
        adapters={**recipe.adapters, "word": word},
        phases=(dataclasses.replace(phase, fit=dataclasses.replace(phase.fit, steps=300 if small else 900)),),
        augmentation=Augmentation(flip=False),
        photo_context=PhotoContext(words=("photo", "of"), learning_rate=rate),
    )
