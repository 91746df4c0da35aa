"""CAAT (CVPR 2024): photos up, key and value projections of the cross-attentions down, in turn."""

from pcs_ext.defense.budget import Budget, to_levels
from pcs_ext.defense.method import Defense, StepRule
from pcs_ext.defense.objectives import DenoisingGain
from pcs_ext.defense.surrogate import Training
from pcs_ext.image.adapters import CrossAttentionConfig
from pcs_ext.image.recipes import Preset


def caat(preset: Preset) -> Defense:
    """250 rounds of one step of 0.6375 levels at 6.375 levels (0.005 and 0.05 on [-1, 1]) and one step of keys and
    values at 1e-5 (toybox: 1e-4, its models are small).

    Differs from the released script: photo and projections take a backward pass each, where one serves both there.
    """
    return Defense(
        id="caat",
        budget=Budget(levels=to_levels(0.05, "[-1,1]")),
        rule=StepRule(size=to_levels(0.005, "[-1,1]")),
        rounds=250,
        steps=1,
        objective=DenoisingGain(),
        training=Training(
            adapter=CrossAttentionConfig(),
            learning_rate=1e-4 if preset == "toybox" else 1e-5,
            protected_steps=1,
            prior_loss_weight=0.0,
        ),
    )
