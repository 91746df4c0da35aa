"""Infusion (Zeng et al. 2024, arXiv 2404.14007): the base's maps are kept, what is learned is added to values."""

from pcs_ext.image.adapters import ValueResidualConfig
from pcs_ext.image.concept import OBJECT_TEMPLATES, Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING

_TOKEN = "<subject>"


def infusion(noun: str, preset: Preset) -> Recipe:
    """A vector per cross-attention beside the noun's values; the maps are those of the base on the same latents.

    That the original maps stay, that residuals of values are learned and that two streams run is the paper's; rates and
    steps are ours, as is the vector per layer: with 12,480 numbers it is 50 kB, and the paper reports 11. Its base is
    SD 1.5. `toybox`: not measured yet.
    """
    small = preset == "toybox"
    return Recipe(
        id="infusion",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=False,
            templates=("a photo of {subject}",) if small else OBJECT_TEMPLATES,
        ),
        adapters={"values": ValueResidualConfig(placeholder=_TOKEN, class_noun=noun)},
        phases=(
            Phase(
                name="values",
                learning_rates={"values": 2e-2 if small else 5e-3},
                batch_size=4,
                fit=FitConfig(steps=300 if small else 500),
            ),
        ),
        augmentation=Augmentation(flip=not small),
        sampling=SAMPLING[preset],
    )
