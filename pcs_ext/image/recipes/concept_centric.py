"""Concept-centric personalisation (Cao et al. 2023, arXiv 2312.08195): what is drawn when nothing is asked."""

from pcs_ext.image.adapters import FullConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING


def concept_centric(noun: str, preset: Preset) -> Recipe:
    """The whole denoiser, photos shown without words. Sample with `image heed --method concept-centric`.

    Meant for many photos of one domain (the paper's are faces and the like, by tens of thousands). Its rates and steps
    could not be read: 1e-5, batch 4 and 4000 steps are ours. Differs from the released code, where the text attention
    of the tuned denoiser is replaced by what it made of no words: here it reads no words. `toybox`: not measured yet.
    """
    small = preset == "toybox"
    return Recipe(
        id="concept-centric",
        concept=Concept(class_noun=noun, mode="plain"),
        adapters={"denoiser": FullConfig(components=("denoiser",))},
        phases=(
            Phase(
                name="denoiser",
                learning_rates={"denoiser": 1e-4 if small else 1e-5},
                weight_decay=1e-2,
                batch_size=4,
                fit=FitConfig(steps=200 if small else 4000),
                unconditional=True,
            ),
        ),
        sampling=SAMPLING[preset],
    )
