"""FSMG and T-FSMG: a surrogate is trained to the end, then attacked (Anti-DreamBooth, arXiv 2303.15433)."""

import dataclasses

from pcs_ext.defense.budget import Budget
from pcs_ext.defense.canvas import Views
from pcs_ext.defense.method import Defense, StepRule
from pcs_ext.defense.objectives import DenoisingGain, TargetShiftGain
from pcs_ext.defense.recipes.surrogates import full_training, low_rank_training
from pcs_ext.image.recipes import Preset


def fsmg_compat(preset: Preset) -> Defense:
    """As released: all weights of denoiser and text encoder, 1000 steps at 5e-7, then 100 steps; 6.375 levels.

    The surrogate is trained with float32 weights, so the rounding that spoils the released ASPL is not here.

    Differs from the released script in the surrogate's training: 3 class images where it has 200, one photo and one
    class image in a step where it has two of each: that would at least double the cost.
    """
    small = preset == "toybox"
    training = full_training(preset, text=not small)
    return Defense(
        id="fsmg-compat",
        budget=Budget(levels=6.375),
        rule=StepRule(size=0.6375),
        steps=100,
        objective=DenoisingGain(),
        training=dataclasses.replace(training, first_steps=120 if small else 1000),
        views=Views(center_only=True),
        quirks=("only the central square of a photo is seen", "budget of 6.375 levels instead of a whole number"),
    )


def fsmg(preset: Preset) -> Defense:
    """The same attack on a LoRA surrogate that really moves, on all squares of the photo, at 8 levels."""
    small = preset == "toybox"
    return Defense(
        id="fsmg",
        budget=Budget(levels=8),
        rule=StepRule(size=0.8),
        steps=100,
        objective=DenoisingGain(),
        training=dataclasses.replace(low_rank_training(preset), first_steps=100 if small else 400),
    )


def t_fsmg(preset: Preset) -> Defense:
    """FSMG that also pulls the denoiser's next step to a target; weaker, says the paper (recalled, not re-read)."""
    return dataclasses.replace(fsmg(preset), id="t-fsmg", objective=TargetShiftGain())


def t_fsmg_compat(preset: Preset) -> Defense:
    """T-FSMG as released; its surrogate trains as that of `fsmg_compat`, with fewer class images."""
    base = fsmg_compat(preset)
    quirks = (*base.quirks, "at t = 0 the target is noised to the last timestep", "variance noise in the step to t - 1")
    return dataclasses.replace(base, id="t-fsmg-compat", objective=TargetShiftGain(quirks=True), quirks=quirks)
