"""ADI (Huang et al. 2023, arXiv 2311.15841): a word for an action, blind to who does it and where."""

from pcs_ext.image.adapters import SpectrumConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import InvarianceConfig

_ACTION = "<action>"


def adi(noun: str, preset: Preset) -> Recipe:
    """A row per cross-attention layer, whose channels learn where gradients of three pictures agree that they should.

    Every photo shows the action; `NAME_before.png` beside it the same one in the same place without it, and the other
    photos the action in other places. The paper makes the pictures without it by itself. Prompts write the action
    behind who does it: "a photo of a cat {subject}". Rates and steps are those of `p-plus`: the paper's are not known
    here. `toybox`: not measured yet.

    Args:
        noun: who does it in the photos: "robot".
        preset: of the base.
    """
    small = preset == "toybox"
    return Recipe(
        id="adi",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_ACTION,
            with_noun=False,
            templates=(f"a photo of a {noun} {{subject}}",),
            article=False,
        ),
        adapters={"word": SpectrumConfig(placeholder=_ACTION, per_layer=True)},
        phases=(
            Phase(
                name="word",
                learning_rates={"word/embedding": 1e-2 if small else 5e-3},
                batch_size=2,
                objective=ObjectiveConfig(denoising_weight=0.0, terms=(InvarianceConfig(),)),
                fit=FitConfig(steps=200 if small else 500, gradient_accumulation=1 if small else 4),
            ),
        ),
        augmentation=Augmentation(flip=False),
        needs_before=True,
        sampling=SAMPLING[preset],
    )
