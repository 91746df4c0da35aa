"""ReVersion (Huang et al. 2023, arXiv 2303.13495): a word for the relation between two things."""

from pcs_ext.image.adapters import EmbeddingConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import SteeringConfig
from pcs_ext.image.timesteps import TimestepSampling

_TOKEN = "<relation>"


def reversion(noun: str, preset: Preset) -> Recipe:
    """Textual inversion from "and", steered towards prepositions, at timesteps that favour layout.

    Every photo needs a caption beside it with `{subject}` where the relation goes ("cat {subject} stone"); so do
    prompts. 2.5e-4 scaled by batch 2 and accumulation 4 to 2e-3, 3000 steps. `toybox`: not measured yet.

    Args:
        noun: what the two things are, in a word; only photos without a caption are described by it.
        preset: of the base.
    """
    small = preset == "toybox"
    return Recipe(
        id="reversion",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=False,
            initializer="and",
            templates=("{subject}",),
            article=False,
        ),
        adapters={"word": EmbeddingConfig(placeholder=_TOKEN, initializer="and")},
        phases=(
            Phase(
                name="word",
                learning_rates={"word/embedding": 1e-2 if small else 2e-3},
                batch_size=4 if small else 2,
                objective=ObjectiveConfig(
                    timesteps=TimestepSampling(kind="importance", strength=0.5), terms=(SteeringConfig(),)
                ),
                fit=FitConfig(steps=400 if small else 3000, gradient_accumulation=1 if small else 4),
            ),
        ),
        sampling=SAMPLING[preset],
    )
