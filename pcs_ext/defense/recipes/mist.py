"""Mist (arXiv 2305.12683): the denoising loss raised and the latents pulled to a moire picture, at once."""

from pcs_ext.defense.budget import Budget
from pcs_ext.defense.method import Defense, StepRule
from pcs_ext.defense.objectives import FusedGain
from pcs_ext.image.recipes import Preset


def mist(preset: Preset) -> Defense:
    """Fused mode: 100 steps of 1 level at 16 levels from a random start.

    Differs from the released script: the bound holds in the file (its truncation gives -17 to +16), and the target is
    a pattern of our own.
    """
    return Defense(
        id="mist",
        budget=Budget(levels=16),
        rule=StepRule(size=1.0),
        steps=100,
        start="random",
        objective=FusedGain(),
        token="",
        group=1,
    )
