"""Lego (Motamed et al. 2023, arXiv 2311.13833): what an adjective or verb does, without the thing it is seen on."""

from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import EmbeddingConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import SteeringConfig

_TOKEN, _THING = "<concept>", "<thing>"
_VECTORS = 2


def lego(noun: str, preset: Preset) -> Recipe:
    """Words for a concept and for the thing that has it, learned together from pictures with and without the concept.

    Pictures without it have the caption "a photo of <thing>" beside them, so that how the thing looks goes into its own
    word (the paper's subject separation); those with it need none. The concept's rows are held to words for it and away
    from the thing's (its context loss, InfoNCE). Rates, steps, vectors, weight and temperature are ours: the paper's
    are not known here. `toybox`: not measured yet.

    Args:
        noun: words for the concept with slashes between them, a comma, and the thing: "melted/liquid, robot".
        preset: of the base.

    Raises:
        UsageError: the noun says no concept.
    """
    small = preset == "toybox"
    said, _, thing = (part.strip() for part in noun.partition(","))
    words = tuple(word.strip() for word in said.split("/") if word.strip())
    if not words:
        raise UsageError(
            f"lego learns a concept of a thing; expected --noun like 'melted/liquid, robot', got {noun!r} without a "
            "concept."
        )
    thing = thing or "object"
    rate = 1e-2 if small else 5e-3
    return Recipe(
        id="lego",
        concept=Concept(
            class_noun=words[0],
            mode="learned",
            token=_TOKEN,
            with_noun=False,
            initializer=words[0],
            templates=(f"a photo of a {{subject}} {_THING}",),
            aspects=(_THING,),
            article=False,
        ),
        adapters={
            "concept": EmbeddingConfig(
                placeholder=_TOKEN, num_vectors=_VECTORS, initializer=words[0], init_noise=0.005, init_seed=1
            ),
            "thing": EmbeddingConfig(placeholder=_THING, initializer=thing.split()[-1]),
        },
        phases=(
            Phase(
                name="words",
                learning_rates={"concept/embedding": rate, "thing/embedding": rate},
                batch_size=4,
                objective=ObjectiveConfig(
                    terms=(SteeringConfig(words=words, away=(thing,), adapters=("concept",), weight=0.01),)
                ),
                fit=FitConfig(steps=400 if small else 2000),
            ),
        ),
        sampling=SAMPLING[preset],
    )
