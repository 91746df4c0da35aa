"""Perfusion (Tewel et al. 2023, arXiv 2305.01644): keys locked to the class word, values learned, both gated."""

from pcs_ext.image.adapters import EmbeddingConfig, RankOneConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import MaskNormalisation, ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING

_TOKEN = "<subject>"


def perfusion(noun: str, preset: Preset) -> Recipe:
    """The word at 6e-3 and the values at 0.03, batch 4 with accumulation 4, 400 steps, photos mirrored.

    Rates as in an unofficial port. Masks limit the loss where photos have them. For one subject: the paper's joint gate
    of several is not here. `toybox`: not measured yet.
    """
    small = preset == "toybox"
    initializer = noun.split()[-1]
    return Recipe(
        id="perfusion",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=False,
            initializer=initializer,
            templates=("a photo of {subject}",),
        ),
        adapters={
            "word": EmbeddingConfig(placeholder=_TOKEN, initializer=initializer),
            "values": RankOneConfig(placeholder=_TOKEN, class_noun=noun),
        },
        phases=(
            Phase(
                name="joint",
                learning_rates={"word": 6e-3, "values": 0.03},
                batch_size=4,
                objective=ObjectiveConfig(mask_normalisation=MaskNormalisation.PER_SAMPLE_MEAN),
                fit=FitConfig(steps=300 if small else 400, gradient_accumulation=1 if small else 4),
            ),
        ),
        augmentation=Augmentation(flip=True),
        sampling=SAMPLING[preset],
    )
