"""DisenDreamer (Chen et al. 2024, IEEE TCSVT): DisenBooth whose photos' vectors speak alone, too."""

import dataclasses

from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Preset, Recipe
from pcs_ext.image.recipes.disenbooth import disenbooth
from pcs_ext.image.terms import DisentangleConfig


def disendreamer(noun: str, preset: Preset) -> Recipe:
    """As `disenbooth`, with weak denoising by the words alone, by the photo's vector alone, and unlike embeddings.

    Recalled, not looked up: the three auxiliary objectives. Their weights are DisenBooth's, the vector's as the words';
    rates, rank and steps as there. `toybox`: not measured yet.
    """
    recipe = disenbooth(noun, preset)
    objective = ObjectiveConfig(terms=(DisentangleConfig(sample_weight=0.01),))
    phases = tuple(dataclasses.replace(phase, objective=objective) for phase in recipe.phases)
    return dataclasses.replace(recipe, id="disendreamer", phases=phases)
