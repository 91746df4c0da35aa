"""ASPL, T-ASPL, E-ASPL: surrogate and photos move in turn (Anti-DreamBooth, arXiv 2303.15433, section 4.2)."""

import dataclasses

from pcs_ext.defense.budget import Budget
from pcs_ext.defense.canvas import Views
from pcs_ext.defense.method import Defense, StepRule
from pcs_ext.defense.objectives import DenoisingGain, TargetShiftGain
from pcs_ext.defense.recipes.surrogates import full_training, low_rank_training
from pcs_ext.image.recipes import Preset


def aspl(preset: Preset) -> Defense:
    """What the paper means: 50 rounds of 3 clean steps, 6 gradient steps, 3 steps on the protected photos.

    Differs from the released script: a LoRA surrogate in float32 at 1e-4 that really moves, all photos and squares
    read, 8 levels.
    """
    return Defense(
        id="aspl",
        budget=Budget(levels=8),
        rule=StepRule(size=0.8),
        rounds=50,
        steps=6,
        objective=DenoisingGain(),
        training=dataclasses.replace(low_rank_training(preset), clean_steps=3, protected_steps=3),
    )


def aspl_compat(preset: Preset) -> Defense:
    """What the released script computes, quirk by quirk."""
    training = dataclasses.replace(
        full_training(preset, text=preset != "toybox"),
        learning_rate=5e-7,
        clean_steps=3,
        protected_steps=3,
        order="first",
        carry_moments=False,
        max_gradient_norm=None,
        rounding="bf16",
    )
    return Defense(
        id="aspl-compat",
        budget=Budget(levels=6.375),
        rule=StepRule(size=0.6375),
        rounds=50,
        steps=6,
        objective=DenoisingGain(),
        training=training,
        views=Views(center_only=True),
        quirks=(
            "weights are kept in bf16: at 5e-7 hardly any of them moves",
            "AdamW's averages start anew in each call of three steps",
            "gradient clipping is without effect",
            "only the first three photos and class images are ever read",
            "only the central square of a photo is seen",
            "budget of 6.375 levels instead of a whole number",
        ),
    )


def t_aspl(preset: Preset) -> Defense:
    """ASPL that also pulls the denoiser's next step to a target."""
    return dataclasses.replace(aspl(preset), id="t-aspl", objective=TargetShiftGain())


def t_aspl_compat(preset: Preset) -> Defense:
    """T-ASPL as released."""
    base = aspl_compat(preset)
    quirks = (*base.quirks, "at t = 0 the target is noised to the last timestep", "variance noise in the step to t - 1")
    return dataclasses.replace(base, id="t-aspl-compat", objective=TargetShiftGain(quirks=True), quirks=quirks)


def e_aspl(preset: Preset) -> Defense:
    """ASPL on several bases at once: in each round every base moves its own copy, and the copies are averaged."""
    return dataclasses.replace(aspl(preset), id="e-aspl", ensemble=True)


def e_aspl_compat(preset: Preset) -> Defense:
    """E-ASPL as released (which order of averaging and training was not re-read)."""
    return dataclasses.replace(aspl_compat(preset), id="e-aspl-compat", ensemble=True)
