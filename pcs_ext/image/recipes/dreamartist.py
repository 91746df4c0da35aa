"""DreamArtist (Dong et al. 2022, arXiv 2211.11337): one photo in two words, one of them for the negative prompt."""

from pcs_ext.image.adapters import EmbeddingConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING

_TOKEN, _NEGATIVE = "<subject>", "<not-subject>"


def dreamartist(noun: str, preset: Preset) -> Recipe:
    """Both words are trained through guidance of 5, which the paper keeps between 3 and 7; 2.5e-3, several thousand
    steps, three vectors each: as recalled, not checked against the paper.

    Differs from it: the error is taken on latents alone, without its second loss on decoded pixels. `toybox`: not
    measured yet.
    """
    small = preset == "toybox"
    initializer = noun.split()[-1]
    return Recipe(
        id="dreamartist",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=False,
            initializer=initializer,
            negative=_NEGATIVE,
        ),
        adapters={
            "word": EmbeddingConfig(placeholder=_TOKEN, num_vectors=3, initializer=initializer),
            "negative": EmbeddingConfig(placeholder=_NEGATIVE, num_vectors=3, init_seed=1),
        },
        phases=(
            Phase(
                name="words",
                learning_rates={"word": 1e-2 if small else 2.5e-3, "negative": 1e-2 if small else 2.5e-3},
                batch_size=2 if small else 1,
                objective=ObjectiveConfig(train_guidance=3.0 if small else 5.0),
                fit=FitConfig(steps=400 if small else 4000),
            ),
        ),
        augmentation=Augmentation(flip=False),
        sampling=SAMPLING[preset],
    )
