"""P+ (Voynov et al. 2023, arXiv 2303.09522): textual inversion with one vector per cross-attention layer (XTI)."""

from pcs_ext.image.adapters import SpectrumConfig
from pcs_ext.image.concept import OBJECT_TEMPLATES, Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING

_TOKEN = "<subject>"


def p_plus(noun: str, preset: Preset) -> Recipe:
    """All layers start at the class word. `sd`: 5e-3, batches of 8 as accumulation, 500 steps.

    The reimplementation these values come from reports no gain over plain inversion; on toybox pictures are more like
    the subject than its (docs/comparison.md).
    """
    small = preset == "toybox"
    return Recipe(
        id="p-plus",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=False,
            initializer=noun.split()[-1],
            templates=("a photo of {subject}",) if small else OBJECT_TEMPLATES,
        ),
        adapters={"word": SpectrumConfig(placeholder=_TOKEN, initializer=noun.split()[-1])},
        phases=(
            Phase(
                name="word",
                learning_rates={"word/embedding": 1e-2 if small else 5e-3},
                batch_size=4 if small else 1,
                fit=FitConfig(steps=300 if small else 500, gradient_accumulation=1 if small else 8),
            ),
        ),
        augmentation=Augmentation(flip=False),
        sampling=SAMPLING[preset],
    )
