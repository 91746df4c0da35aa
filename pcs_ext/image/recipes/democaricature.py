"""DemoCaricature (Chen et al. 2023, arXiv 2312.04364): an identity as a rank-one edit, to be drawn after a sketch."""

from pcs_ext.image.adapters import EmbeddingConfig, RankOneConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.hiding import HideConfig
from pcs_ext.image.objectives import MaskNormalisation, ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING

_TOKEN = "<subject>"


def democaricature(noun: str, preset: Preset) -> Recipe:
    """A word and explicit rank-one edits of the values from one photo, random parts of which are hidden in every step.

    Keys give the word what the class noun has, values what is learned; both as edits of the weights themselves, without
    Perfusion's gate. A mask beside the photo limits the loss to the face. A caricature then follows a sketch: `image
    follow SKETCH "a photo of {subject}" --subject FACE`, in place of the paper's sketch adapter, whose weights are not
    here. Recalled, not looked up: that keys stay with the class. Rates and steps are Perfusion's port's. `toybox`: not
    measured yet.
    """
    small = preset == "toybox"
    word = noun.split()[-1]
    return Recipe(
        id="democaricature",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=False,
            initializer=word,
            templates=("a photo of {subject}",),
        ),
        adapters={
            "word": EmbeddingConfig(placeholder=_TOKEN, initializer=word),
            "values": RankOneConfig(placeholder=_TOKEN, class_noun=noun, explicit=True),
        },
        phases=(
            Phase(
                name="joint",
                learning_rates={"word": 6e-3, "values": 0.03},
                batch_size=4,
                objective=ObjectiveConfig(mask_normalisation=MaskNormalisation.PER_SAMPLE_MEAN),
                hide=HideConfig(),
                fit=FitConfig(steps=200 if small else 400),
            ),
        ),
        augmentation=Augmentation(flip=True),
        sampling=SAMPLING[preset],
    )
