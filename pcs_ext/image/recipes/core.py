"""CoRe (Wu et al. 2024, arXiv 2408.15914): a word that leaves its neighbours in peace, then the denoiser."""

from pcs_ext.image.adapters import EmbeddingConfig, FullConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import ContextConfig

_TOKEN = "<subject>"


def core(noun: str, preset: Preset) -> Recipe:
    """300 steps of the word at 5e-3 and batch 6, its length kept in steps 121 to 180; 1000 of the denoiser at 2e-6.

    Context weights 1.5e-4 and 0.05. All from the paper, whose base is SD 2.1; the prompts of the context are ours.
    Its test-time form (a few steps of the context loss for one prompt) is not part of it. `toybox`: other rates and
    steps; not measured yet.
    """
    small = preset == "toybox"
    return Recipe(
        id="core",
        concept=Concept(
            class_noun=noun, mode="learned", token=_TOKEN, with_noun=False, templates=("a photo of {subject}",)
        ),
        adapters={
            "word": EmbeddingConfig(placeholder=_TOKEN, initializer=noun.split()[-1]),
            "weights": FullConfig(components=("denoiser",)),
        },
        phases=(
            Phase(
                name="word",
                learning_rates={"word/embedding": 1e-2 if small else 5e-3},
                batch_size=4 if small else 6,
                objective=ObjectiveConfig(terms=(ContextConfig(noun=noun),)),
                fit=FitConfig(steps=300),
                keep_norms=(0.4, 0.6),
            ),
            Phase(
                name="weights",
                learning_rates={"weights": 5e-5 if small else 2e-6},
                batch_size=4,
                fit=FitConfig(steps=200 if small else 1000),
            ),
        ),
        sampling=SAMPLING[preset],
    )
