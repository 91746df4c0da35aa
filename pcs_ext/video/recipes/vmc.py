"""VMC (Jeong et al. 2023, arXiv 2312.00845): temporal attention tuned on the direction of frame differences."""

from typing import Literal

from pcs_ext.image.fit import FitConfig
from pcs_ext.video.recipes.base import LossName, MotionPass, MotionPhase, MotionRecipe, Preset
from pcs_ext.video.recipes.layers import LayersConfig
from pcs_ext.video.recipes.presets import sampling


def vmc(preset: Preset = "sd", form: Literal["paper", "released"] = "paper") -> MotionRecipe:
    """Queries, keys and values of temporal attention, full weights, 1e-4, 400 steps, 8 frames; guidance 9 at sampling.

    The paper tunes the pixel-space key-frame model of Show-1; here the temporal attention of the backbone at hand.
    `toybox`: 200 steps of 3e-4; not measured.

    Args:
        preset: of the base.
        form: "paper": cosine of signed differences. "released": the code's, absolute values along time, which cannot
            tell a motion from its reverse.
    """
    loss: LossName = "residual_cosine" if form == "paper" else "residual_absolute_cosine"
    return MotionRecipe(
        id="vmc" if form == "paper" else "vmc-released",
        adapters={
            "motion": LayersConfig(layers="temporal_attention", method="full", projections=("to_q", "to_k", "to_v"))
        },
        phases=(
            MotionPhase(
                name="motion",
                passes=(MotionPass(trains=("motion",), losses={loss: 1.0}),),
                learning_rates={"motion": 3e-4 if preset == "toybox" else 1e-4},
                weight_decay=1e-2,
                fit=FitConfig(steps=200 if preset == "toybox" else 400),
            ),
        ),
        plays=("motion",),
        frames=8,
        sampling=sampling(preset, steps=75, guidance_scale=9.0),
    )
