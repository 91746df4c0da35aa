"""Compositional Inversion (Zhang et al. 2023, arXiv 2312.08048): a word that stays among words the base composes."""

from pcs_ext.image.adapters import EmbeddingConfig
from pcs_ext.image.concept import OBJECT_TEMPLATES, Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import AnchorConfig

_TOKEN = "<subject>"
_ANCHOR, _RECONSTRUCTION = 0.95, 0.05
_NUMBERS = 77 * 768
"""Of an encoded prompt of Stable Diffusion 1.x, over which the released code averages the anchor's squares."""


def compositional_inversion(noun: str, preset: Preset) -> Recipe:
    """One word before the noun, 5e-3 scaled by batch 4 and accumulation 2 to 4e-2, 5000 steps, held to the noun's row.

    The released code weighs 0.95 on the anchor, averaged over every number of an encoded prompt though one row alone
    differs, and 0.05 on the denoising loss. Here the latter has weight 1 and the anchor the same ratio to it, per row.
    Its command names three vectors, of which training reads the first; here there is one. The other half, boxes while
    sampling, is `image layout`, whose numbers it shares. `toybox`: not measured yet.
    """
    small = preset == "toybox"
    anchor = noun.split()[-1]
    return Recipe(
        id="compositional-inversion",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=True,
            initializer=anchor,
            templates=("a photo of {subject}",) if small else OBJECT_TEMPLATES,
        ),
        adapters={"word": EmbeddingConfig(placeholder=_TOKEN, initializer=anchor)},
        phases=(
            Phase(
                name="word",
                learning_rates={"word/embedding": 1e-2 if small else 4e-2},
                batch_size=4,
                objective=ObjectiveConfig(
                    terms=(AnchorConfig(words=(anchor,), weight=_ANCHOR / _RECONSTRUCTION / _NUMBERS),)
                ),
                fit=FitConfig(steps=400 if small else 5000, gradient_accumulation=1 if small else 2),
            ),
        ),
        augmentation=Augmentation(flip=not small),
        sampling=SAMPLING[preset],
    )
