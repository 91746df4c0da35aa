"""StyleForge (Park et al. 2024, arXiv 2404.05256): a style's people and its scenes, a word for each."""

import dataclasses

from pcs_ext.image.adapters import EmbeddingConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.recipes.base import Preset, Recipe
from pcs_ext.image.recipes.styleboost import style_recipe

_SCENES, _PEOPLE = "<scenes>", "<people>"


def styleforge(noun: str, preset: Preset) -> Recipe:
    """Multi-StyleForge: as `styleboost` (which is Single-StyleForge), with two words instead of one.

    Pictures of people in the style have "a picture in <people> style" in `NAME.txt`; all others are scenes. Prompts
    write {subject} for both words, or one of them: "a house in <scenes> style".
    Differs from the paper: the words are new rows of the token table, not rare words whose rows train with the text
    encoder. `toybox`: see `styleboost`.

    Args:
        noun: what the auxiliary pictures show: "person".
        preset: of the base.
    """
    concept = Concept(
        class_noun="style",
        mode="learned",
        token=f"{_SCENES} {_PEOPLE}",
        templates=(f"a picture in {_SCENES} style",),
        article=False,
    )
    recipe = style_recipe("styleforge", concept, noun, preset)
    (phase,) = recipe.phases
    rate = 1e-3 if preset == "toybox" else phase.learning_rates["weights"]
    words = {
        "scenes": EmbeddingConfig(placeholder=_SCENES, initializer="random"),
        "people": EmbeddingConfig(placeholder=_PEOPLE, initializer="random", init_seed=1),
    }
    rates = {**phase.learning_rates, "scenes/embedding": rate, "people/embedding": rate}
    return dataclasses.replace(
        recipe, adapters={**words, **recipe.adapters}, phases=(dataclasses.replace(phase, learning_rates=rates),)
    )
