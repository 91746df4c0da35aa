"""CatVersion (Zhao et al. 2023, arXiv 2311.14631): what a subject adds to its class noun, inside the text encoder."""

from pcs_ext.image.adapters import TextPrefixConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING

_TOKEN = "<subject>"


def catversion(noun: str, preset: Preset) -> Recipe:
    """One key and one value in each of the last three text self-attentions, 1000 steps at 5e-3 x batch 2.

    The caption is the class noun (here with its article), photos are mirrored half of the time. All from the released
    code; its mask adds 1 to the learned keys' scores, which is left out. `toybox`: the last two of its four layers,
    other rate and steps, no gain over textual inversion (docs/comparison.md).
    """
    small = preset == "toybox"
    return Recipe(
        id="catversion",
        concept=Concept(class_noun=noun, mode="learned", token=_TOKEN, templates=("{subject}",)),
        adapters={"prefix": TextPrefixConfig(placeholder=_TOKEN, layers=2 if small else 3)},
        phases=(
            Phase(
                name="prefix",
                learning_rates={"prefix": 2e-2 if small else 1e-2},
                batch_size=4 if small else 2,
                fit=FitConfig(steps=400 if small else 1000),
            ),
        ),
        augmentation=Augmentation(flip=True),
        sampling=SAMPLING[preset],
    )
