"""COMCAT (Xiao et al. 2023, arXiv 2305.17235): low-rank factors of attention's products, a few megabytes a subject."""

from pcs_ext.image.adapters import HeadFactorsConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING


def comcat(noun: str, preset: Preset) -> Recipe:
    """Rank 2 per head in all attentions of the denoiser, 500 steps at 2.5e-3 falling linearly, batch 1.

    All from the released command (SD 1.4), which trains neither on class images nor in the text encoder. `toybox`:
    rank 4, other rate and steps; not measured yet.
    """
    small = preset == "toybox"
    return Recipe(
        id="comcat",
        concept=Concept(class_noun=noun, mode="rare", templates=("a photo of {subject}",)),
        adapters={"factors": HeadFactorsConfig(rank=4 if small else 2)},
        phases=(
            Phase(
                name="factors",
                learning_rates={"factors": 5e-3 if small else 2.5e-3},
                weight_decay=1e-2,
                batch_size=4 if small else 1,
                fit=FitConfig(steps=200 if small else 500, lr_schedule="linear"),
            ),
        ),
        augmentation=Augmentation(flip=False),
        sampling=SAMPLING[preset],
    )
