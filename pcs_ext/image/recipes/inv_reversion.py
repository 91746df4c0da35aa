"""Inv-ReVersion (Appl. Sci. 2024, 14, 3338): a word for a relation, and one for it read from its other end."""

import dataclasses

from pcs_ext.image.adapters import EmbeddingConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Preset, Recipe
from pcs_ext.image.recipes.reversion import reversion
from pcs_ext.image.residual_filter import SuppressConfig
from pcs_ext.image.terms import SteeringConfig
from pcs_ext.image.timesteps import TimestepSampling

_INVERSE = "<inverse>"


def inv_reversion(noun: str, preset: Preset) -> Recipe:
    """As `reversion`, with inverse captions, verbs among the positives, and less of the errors' fine detail.

    A photo's caption "cat {subject} stone" is half of the time "stone <inverse> cat", so that neither thing becomes a
    part of the word; prompts may use either word. The abstract names the three parts; their forms are ours: the
    inverse word's start, the verbs and their weight 0.5, and the halved amplitudes beyond half of the highest
    frequency. Rates, steps and timesteps are ReVersion's. `toybox`: not measured yet.

    Args:
        noun: what the two things are, in a word; only photos without a caption are described by it.
        preset: of the base.
    """
    recipe = reversion(noun, preset)
    (phase,) = recipe.phases
    objective = ObjectiveConfig(
        timesteps=TimestepSampling(kind="importance", strength=0.5),
        suppress=SuppressConfig(cutoff=0.5, keep=0.5),
        terms=(SteeringConfig(verbs=4, verb_weight=0.5),),
    )
    rates = {**phase.learning_rates, "inverse/embedding": phase.learning_rates["word/embedding"]}
    return dataclasses.replace(
        recipe,
        id="inv-reversion",
        concept=dataclasses.replace(recipe.concept, inverse=_INVERSE),
        adapters={**recipe.adapters, "inverse": EmbeddingConfig(placeholder=_INVERSE, initializer="and")},
        phases=(dataclasses.replace(phase, learning_rates=rates, objective=objective),),
    )
