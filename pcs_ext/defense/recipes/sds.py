"""SDS-: score distillation through the encoder, downhill (Diff-Protect, arXiv 2311.12832)."""

from pcs_ext.defense.budget import Budget
from pcs_ext.defense.method import Defense, StepRule
from pcs_ext.defense.objectives import ScoreGain
from pcs_ext.image.recipes import Preset


def sds(preset: Preset) -> Defense:
    """100 steps of 1 level at 16 levels from zero; descent, which its paper reports as strongest. No backward pass
    through the denoiser."""
    return Defense(
        id="sds",
        budget=Budget(levels=16),
        rule=StepRule(size=1.0),
        steps=100,
        objective=ScoreGain(),
        token="",
        group=1,
    )
