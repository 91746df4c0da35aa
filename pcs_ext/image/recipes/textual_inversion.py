"""Textual inversion (Gal et al. 2022, arXiv 2208.01618): one new word vector, everything else frozen."""

from pcs_ext.image.adapters import EmbeddingConfig
from pcs_ext.image.concept import OBJECT_TEMPLATES, Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.early_stopping import DvarConfig
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING

_TOKEN = "<subject>"


def textual_inversion(
    noun: str, preset: Preset, *, id: str = "textual-inversion", dvar: DvarConfig | None = None
) -> Recipe:
    """One vector, started at the class word. `sd`: 3000 steps at an effective 2e-3 (survey's comparison)."""
    small = preset == "toybox"
    initializer = noun.split()[-1]
    return Recipe(
        id=id,
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=False,
            initializer=initializer,
            templates=("a photo of {subject}",) if small else OBJECT_TEMPLATES,
        ),
        adapters={"word": EmbeddingConfig(placeholder=_TOKEN, initializer=initializer)},
        phases=(
            Phase(
                name="word",
                learning_rates={"word/embedding": 1e-2 if small else 2e-3},
                batch_size=4 if small else 1,
                objective=ObjectiveConfig(),
                fit=FitConfig(steps=400 if small else 3000, gradient_accumulation=1 if small else 4),
                dvar=dvar,
            ),
        ),
        augmentation=Augmentation(flip=False),
        sampling=SAMPLING[preset],
    )


def dvar(noun: str, preset: Preset) -> Recipe:
    """DVAR (Voronov et al. 2023, arXiv 2302.04841): textual inversion that stops by itself."""
    return textual_inversion(noun, preset, id="dvar", dvar=DvarConfig())
