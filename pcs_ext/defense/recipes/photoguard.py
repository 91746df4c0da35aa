"""PhotoGuard's encoder attack (arXiv 2302.06588, section 3.1): no denoiser, no prompt; made against editing."""

from pcs_ext.defense.budget import Budget, to_levels
from pcs_ext.defense.method import Defense, StepRule
from pcs_ext.defense.objectives import LatentGain
from pcs_ext.image.recipes import Preset


def photoguard(preset: Preset) -> Defense:
    """0.06 on [-1, 1] is 7.65 levels; steps of 2.55 levels falling a hundredfold, random start, latents towards zero.

    `toybox`: 100 steps instead of 1000.
    """
    size = to_levels(0.02, "[-1,1]")
    return Defense(
        id="photoguard",
        budget=Budget(levels=to_levels(0.06, "[-1,1]")),
        rule=StepRule(size=size, last=size / 100),
        steps=100 if preset == "toybox" else 1000,
        start="random",
        objective=LatentGain(),
        token="",
        group=1,
    )
