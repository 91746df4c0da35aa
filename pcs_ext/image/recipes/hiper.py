"""HiPer (Han et al. 2023, arXiv 2303.08767): one photo in the last five positions of the prompt."""

from pcs_ext.image.adapters import TailConfig
from pcs_ext.image.concept import Concept, fill
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING

_TOKEN = "<subject>"
_TEMPLATE = "a photo of {subject}"


def hiper(noun: str, preset: Preset) -> Recipe:
    """Five vectors at 5e-3 for 1200 steps; the authors then choose among the checkpoints, 1000 being usual.

    Prompts name the class noun and no identifier; `toybox`: not measured yet.
    """
    small = preset == "toybox"
    return Recipe(
        id="hiper",
        concept=Concept(class_noun=noun, mode="learned", token=_TOKEN, with_noun=True, templates=(_TEMPLATE,)),
        adapters={"tail": TailConfig(placeholder=_TOKEN, num_vectors=5, initializer=fill(_TEMPLATE, noun))},
        phases=(
            Phase(
                name="tail",
                learning_rates={"tail/embedding": 2e-2 if small else 5e-3},
                batch_size=4 if small else 1,
                fit=FitConfig(steps=400 if small else 1200),
            ),
        ),
        sampling=SAMPLING[preset],
    )
