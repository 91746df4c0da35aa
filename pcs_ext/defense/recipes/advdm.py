"""AdvDM: raise the loss of a frozen base (arXiv 2302.04578)."""

from pcs_ext.defense.budget import Budget
from pcs_ext.defense.method import Defense, StepRule
from pcs_ext.defense.objectives import DenoisingGain
from pcs_ext.image.recipes import Preset


def advdm(preset: Preset) -> Defense:
    """100 steps of 1 level at 16 levels from a random start, plain prompt: what Diff-Protect's script computes."""
    return Defense(
        id="advdm",
        budget=Budget(levels=16),
        rule=StepRule(size=1.0),
        steps=100,
        start="random",
        objective=DenoisingGain(),
        token="",
        group=1,
    )
