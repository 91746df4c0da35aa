"""PersonaMagic (Li et al. 2024, arXiv 2412.15674): words that act in one stage, in balance with the text."""

from pcs_ext.image.adapters import StageWordsConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.masked_loss import MaskNormalisation
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import EquilibriumConfig
from pcs_ext.image.timesteps import TimestepSampling

_TOKEN = "<subject>"
_STAGE = (0.4, 0.8)


def personamagic(noun: str, preset: Preset) -> Recipe:
    """Four words between timesteps 400 and 800, from one photo; 5e-5 scaled by batch 1 and accumulation 2; 1000 steps.

    Loss over the mask where there is one, equilibrium with weight 0.001. Stage, network, rates, steps and weights are
    the released code's. `toybox`: other rates and fewer steps; not measured yet.
    """
    small = preset == "toybox"
    low, high = _STAGE
    return Recipe(
        id="personamagic",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=False,
            initializer=noun.split()[-1],
            templates=("a photo of {subject}",),
        ),
        adapters={"word": StageWordsConfig(placeholder=_TOKEN, initializer=noun.split()[-1], low=low, high=high)},
        phases=(
            Phase(
                name="word",
                learning_rates={"word/embedding": 1e-3 if small else 1e-4},
                weight_decay=1e-2,
                batch_size=4 if small else 1,
                objective=ObjectiveConfig(
                    mask_normalisation=MaskNormalisation.PER_SAMPLE_MEAN,
                    timesteps=TimestepSampling(low=low, high=high),
                    terms=(EquilibriumConfig(),),
                ),
                fit=FitConfig(steps=300 if small else 1000, gradient_accumulation=1 if small else 2),
            ),
        ),
        sampling=SAMPLING[preset],
    )
