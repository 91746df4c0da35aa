"""ProSpect (Zhang et al. 2023, arXiv 2305.16225): one word vector per stage of denoising."""

from pcs_ext.image.adapters import SpectrumConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING

_TOKEN = "<subject>"
STAGES = 10
"""Of 100 timesteps each; the paper finds layout in the noisy ones, then content, then material."""


def prospect(noun: str, preset: Preset) -> Recipe:
    """Ten vectors from the class word, one photo being enough.

    Differs from the released code, which lets a small transformer with dropout make the vectors (1e-4, at most 600
    steps): here the vectors themselves are trained, at textual inversion's rate. `toybox`: not measured yet.
    """
    small = preset == "toybox"
    return Recipe(
        id="prospect",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=False,
            initializer=noun.split()[-1],
            templates=("a photo of {subject}",),
        ),
        adapters={
            "word": SpectrumConfig(placeholder=_TOKEN, per_layer=False, stages=STAGES, initializer=noun.split()[-1])
        },
        phases=(
            Phase(
                name="word",
                learning_rates={"word/embedding": 1e-2 if small else 2e-3},
                batch_size=4 if small else 1,
                fit=FitConfig(steps=600),
            ),
        ),
        augmentation=Augmentation(flip=False),
        sampling=SAMPLING[preset],
    )
