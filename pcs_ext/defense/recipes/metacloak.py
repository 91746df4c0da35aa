"""MetaCloak: photos that survive transforms, against surrogates from a whole training (arXiv 2311.13127)."""

import dataclasses

from pcs_ext.defense.budget import Budget
from pcs_ext.defense.method import Defense, StepRule
from pcs_ext.defense.objectives import DenoisingGain
from pcs_ext.defense.recipes.surrogates import low_rank_training
from pcs_ext.defense.transforms import Blur, Crop, Flip, Resize
from pcs_ext.image.recipes import Preset

_TRIALS = 4
"""Times that the whole pool takes its turn."""


def metacloak(preset: Preset) -> Defense:
    """4 trials over a pool of 6 states of one training of 1000 steps on the photos; each state serves 100 rounds of 6
    gradient steps of 1.1 levels (11 in all) on the denoising loss of transformed photos, and of 2 training steps on
    what they have become. Toybox: 100 steps and 2 rounds.

    Differs from the released script: a LoRA surrogate in float32, so that six states fit into memory; transforms
    happen half of the time each, in the order resize, crop, blur, flip; the written file is rounded, where the script
    cuts off what is behind the point and darkens the photo by half a level.
    """
    small = preset == "toybox"
    pool, turn = 6, 2 if small else 100
    training = dataclasses.replace(
        low_rank_training(preset), first_steps=100 if small else 1000, protected_steps=2, pool=pool, turn=turn
    )
    return Defense(
        id="metacloak",
        budget=Budget(levels=11),
        rule=StepRule(size=1.1),
        rounds=_TRIALS * pool * turn,
        steps=6,
        objective=DenoisingGain(),
        transforms=(Resize(), Crop(), Blur(taps=7), Flip()),
        training=training,
    )
