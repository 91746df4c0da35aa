"""Cones 2 (Liu et al. 2023, arXiv 2305.19327): a tuned text encoder, kept as a residual of the class noun."""

from pcs_ext.image.adapters import ResidualConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import TextPreserveConfig

_TOKEN = "<subject>"


def cones_2(noun: str, preset: Preset) -> Recipe:
    """All text encoder weights at 5e-6, batch 1, 3000 steps (the released command); 1e-2 and 1e-3 on the other words.

    Differs from the released code: captions are "a dog", not "dog" alone, and the residual is averaged over our own
    prompts. `pcs-ext image together` composes several such subjects under its layout guidance. `toybox`: not measured;
    80 steps at 1e-4 did not show the subject.
    """
    small = preset == "toybox"
    return Recipe(
        id="cones-2",
        concept=Concept(class_noun=noun, mode="learned", token=_TOKEN, with_noun=True, templates=("{subject}",)),
        adapters={"residual": ResidualConfig(placeholder=_TOKEN, class_noun=noun)},
        phases=(
            Phase(
                name="encoder",
                learning_rates={"residual": 1e-4 if small else 5e-6},
                weight_decay=1e-2,
                batch_size=4 if small else 1,
                objective=ObjectiveConfig(terms=(TextPreserveConfig(),)),
                fit=FitConfig(steps=200 if small else 3000),
            ),
        ),
        augmentation=Augmentation(flip=False),
        sampling=SAMPLING[preset],
    )
