"""DreamDistribution (Zhao et al. 2023, arXiv 2312.14216): what a set of photos has in common, and how they differ."""

from pcs_ext.image.adapters import DistributionConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import DiversityConfig

_TOKEN = "<subject>"


def dreamdistribution(noun: str, preset: Preset) -> Recipe:
    """32 meanings of four vectors, 1000 steps at 1e-3, captions of the word alone; every picture draws its own prompt.

    Rates and sizes are the released code's, whose base is SD 2.1.

    Differs from it: it draws four prompts for each of the photos of a step; here each of four photos has one. Text
    around the word ("a photo of {subject} at night") is encoded with every meaning, as there. Two distributions are
    not mixed. `toybox`: eight meanings, other rate and steps; not measured yet.

    Args:
        noun: what the photos show; no part of prompts.
        preset: of the base.
    """
    small = preset == "toybox"
    return Recipe(
        id="dreamdistribution",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=False,
            templates=("{subject}",),
            article=False,
        ),
        adapters={"word": DistributionConfig(placeholder=_TOKEN, meanings=8 if small else 32)},
        phases=(
            Phase(
                name="word",
                learning_rates={"word/embedding": 1e-2 if small else 1e-3},
                batch_size=4,
                objective=ObjectiveConfig(terms=(DiversityConfig(),)),
                fit=FitConfig(steps=400 if small else 1000),
            ),
        ),
        sampling=SAMPLING[preset],
    )
