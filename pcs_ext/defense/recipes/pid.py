"""PID: prompt-independent, moves mean and deviation of the encoder's posterior (ICML 2024)."""

from pcs_ext.defense.budget import Budget, to_levels
from pcs_ext.defense.method import Defense, StepRule
from pcs_ext.defense.objectives import PosteriorGain
from pcs_ext.image.recipes import Preset


def pid(preset: Preset) -> Defense:
    """0.05 on [0, 1] is 12.75 levels; steps of 1 level from a random start. The script leaves the number of steps to
    the user; 100 here."""
    return Defense(
        id="pid",
        budget=Budget(levels=to_levels(0.05, "[0,1]")),
        rule=StepRule(size=1.0),
        steps=100,
        start="random",
        objective=PosteriorGain(statistic="both-log"),
        token="",
        group=1,
    )
