"""DreamBooth++ (Zhang et al., ACM MM 2024): several photos packed into one picture, in regions that do not mix."""

from pcs_ext.image.adapters import FullConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import PreserveConfig


def dreambooth_pp(noun: str, preset: Preset) -> Recipe:
    """Four photos of half the side per picture; the denoiser's answers to the class noun held to the base's.

    Recalled, not looked up: convolutions and self-attentions restricted to regions, and a regularisation by the base's
    answers to text instead of class images. Four photos, the weight, rates and half of DreamBooth's steps are ours.
    `toybox`: not measured yet.
    """
    small = preset == "toybox"
    return Recipe(
        id="dreambooth-plus-plus",
        concept=Concept(class_noun=noun, mode="rare", templates=("a photo of {subject}",)),
        adapters={"denoiser": FullConfig(components=("denoiser",))},
        phases=(
            Phase(
                name="denoiser",
                learning_rates={"denoiser": 1e-4 if small else 5e-6},
                weight_decay=1e-2,
                batch_size=2 if small else 1,
                objective=ObjectiveConfig(terms=(PreserveConfig(noun=noun),)),
                fit=FitConfig(steps=120 if small else 400),
            ),
        ),
        augmentation=Augmentation(pack=2),
        sampling=SAMPLING[preset],
    )
