"""Rahman et al. (2024, arXiv 2402.11487): where subjects are and what their words mean, estimated in turns."""

from pcs_ext.image.adapters import AdapterConfig, CrossAttentionConfig, EmbeddingConfig
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.mask_estimate import EstimateConfig
from pcs_ext.image.objectives import MaskNormalisation, ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.break_a_scene import concept_of_parts, placeholders
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import AttentionConfig


def em_style(noun: str, preset: Preset) -> Recipe:
    """Words and cross-attention keys and values under masked losses; masks are read off attention ten times.

    Words start at their nouns, so that the first masks are where the base sees those. That tokens and masks are
    learned in turns, that masks come from cross-attention, and that the loss is masked is the paper's; its numbers
    could not be read: 800 steps at 5e-4 and 1e-5, batch 2 and ten rounds are ours. `toybox`: other rates and steps; not
    measured yet.

    Args:
        noun: "robot, hat": one noun per subject, all of them in every photo; prompts then say `<robot>`, `<hat>`, or
            `{subject}` for all. One noun alone is one subject.
        preset: of the base.
    """
    small = preset == "toybox"
    nouns = [part.strip() for part in noun.split(",") if part.strip()]
    tokens = placeholders(nouns)
    words = [f"word_{index + 1}" for index in range(len(tokens))]
    adapters: dict[str, AdapterConfig] = {
        name: EmbeddingConfig(placeholder=token, initializer=own.split()[-1])
        for name, token, own in zip(words, tokens, nouns, strict=True)
    }
    adapters["keys_values"] = CrossAttentionConfig()
    return Recipe(
        id="em-style",
        concept=concept_of_parts(nouns, tokens),
        adapters=adapters,
        phases=(
            Phase(
                name="turns",
                learning_rates={
                    **dict.fromkeys(words, 5e-3 if small else 5e-4),
                    "keys_values": 2e-4 if small else 1e-5,
                },
                batch_size=4 if small else 2,
                objective=ObjectiveConfig(
                    mask_normalisation=MaskNormalisation.PER_SAMPLE_MEAN,
                    terms=(AttentionConfig(side=8 if small else 16),),
                ),
                fit=FitConfig(steps=300 if small else 800),
                estimate=EstimateConfig(rounds=6 if small else 10),
            ),
        ),
        sampling=SAMPLING[preset],
    )
