"""MC-TI (Wang et al., WACV 2025, arXiv 2410.22317): words that draw their class and tell it from others."""

import dataclasses

from pcs_ext.image.recipes.base import Preset, Recipe
from pcs_ext.image.recipes.textual_inversion import textual_inversion


def mc_ti(noun: str, preset: Preset) -> Recipe:
    """Textual inversion plus a cross-entropy over one picture of every class.

    `sd`: weight 1, scale 10, an effective rate of 2e-3, 3100 steps, as released; its annealing of the weight is never
    used there and left out here. `toybox`: textual inversion's values. Without other classes (`learn(rivals=...)`, or
    `pcs-ext classes learn`) the term is absent and this is textual inversion.
    """
    recipe = textual_inversion(noun, preset, id="mc-ti")
    (phase,) = recipe.phases
    objective = dataclasses.replace(phase.objective, classification_weight=1.0, classification_scale=10.0)
    steps = phase.fit.steps if preset == "toybox" else 3100
    fit = dataclasses.replace(phase.fit, steps=steps)
    return dataclasses.replace(recipe, phases=(dataclasses.replace(phase, objective=objective, fit=fit),))
