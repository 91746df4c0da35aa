"""NeTI (Alaluf et al. 2023, arXiv 2305.15391): the word's vector as a small network of timestep and layer."""

from pcs_ext.image.adapters import NetiConfig
from pcs_ext.image.concept import OBJECT_TEMPLATES, Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING

_TOKEN = "<subject>"


def neti(noun: str, preset: Preset) -> Recipe:
    """`sd`: the released code's 1e-3, scaled by batch 2 and accumulation 4 to 8e-3; 1000 steps.

    `toybox`: a smaller mapper; not measured yet.
    """
    small = preset == "toybox"
    initializer = noun.split()[-1]
    mapper = (
        NetiConfig(placeholder=_TOKEN, initializer=initializer, frequencies=128, width=64)
        if small
        else NetiConfig(placeholder=_TOKEN, initializer=initializer)
    )
    return Recipe(
        id="neti",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=False,
            initializer=initializer,
            templates=("a photo of {subject}",) if small else OBJECT_TEMPLATES,
        ),
        adapters={"word": mapper},
        phases=(
            Phase(
                name="mapper",
                learning_rates={"word/embedding": 2e-3 if small else 8e-3},
                batch_size=4 if small else 2,
                fit=FitConfig(steps=400 if small else 1000, gradient_accumulation=1 if small else 4),
            ),
        ),
        augmentation=Augmentation(flip=False),
        sampling=SAMPLING[preset],
    )
