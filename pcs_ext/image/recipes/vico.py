"""ViCo (Hao et al. 2023, arXiv 2306.00971): a word, and blocks that look at a picture of the subject while painting."""

from pcs_ext.image.adapters import EmbeddingConfig, ReferenceConfig
from pcs_ext.image.concept import OBJECT_TEMPLATES, Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import TiedLookConfig

_TOKEN = "<subject>"


def vico(noun: str, preset: Preset) -> Recipe:
    """A word at 5e-3 x 4, blocks behind every second decoder attention at 1e-5, 400 steps of four photos.

    Each photo looks at another one of its batch; the word's map there picks the cells that are looked at, and is held
    to the map of the end of the text (5e-4). One photo is kept in the subject, to be looked at later. Numbers are the
    released code's (SD 1.4, four GPUs with a photo each).

    Differs from it: blocks start without effect; the four photos are one batch. `toybox`: other rates and steps; not
    measured yet.
    """
    small = preset == "toybox"
    word = noun.split()[-1]
    return Recipe(
        id="vico",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=False,
            initializer=word,
            templates=("a photo of {subject}",) if small else OBJECT_TEMPLATES,
        ),
        adapters={
            "word": EmbeddingConfig(placeholder=_TOKEN, initializer=word),
            "picture": ReferenceConfig(placeholder=_TOKEN),
        },
        phases=(
            Phase(
                name="joint",
                learning_rates={"word/embedding": 1e-2 if small else 2e-2, "picture": 1e-3 if small else 1e-5},
                weight_decay=1e-2,
                batch_size=4,
                objective=ObjectiveConfig(terms=(TiedLookConfig(),)),
                fit=FitConfig(steps=200 if small else 400),
            ),
        ),
        augmentation=Augmentation(flip=False),
        sampling=SAMPLING[preset],
    )
