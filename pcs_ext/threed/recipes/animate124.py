"""Animate124 (Zhao et al. 2023, arXiv 2311.14603): a still scene set in motion on grids along time.

The video model judges clips; where the photo is given, it holds the first moment, by its own camera and by a view
model; later the image model with the subject in it judges two frames of each clip as well, through a ControlNet that is
shown the coarse scene (tile), against the drift of its looks. `3d animate-photo` goes all the way from one photo;
`3d animate` takes any finished field. Differs from Animate124: the subject's word stands in the clips' prompts, too;
clips last from the first moment to the last, and their first frame is judged in a fifth of the steps; frames are judged
at the base's own resolution (1024 there) with view words; one base judges both and one optimiser goes through both
stages. Without the photo the first moment is the still scene, without a ControlNet frames are judged freely.
"""

import dataclasses

from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes import Preset
from pcs_ext.threed.distillation import DistillationConfig, TimestepLaw
from pcs_ext.threed.motion_stage import FirstMoment, FrameScore, MotionStage
from pcs_ext.threed.moving_fields import MotionConfig
from pcs_ext.threed.recipes.animate124_still import animate124_still
from pcs_ext.threed.recipes.base import AnimateRecipe, Effort
from pcs_ext.threed.recipes.stages import words

_STEPS: dict[Effort, int] = {"fast": 60, "balanced": 300, "paper": 20_000}
"""paper: 15,000 of the clips alone, then on to 20,000."""


def animate124(preset: Preset, effort: Effort) -> AnimateRecipe:
    """Guidance 101 on clips, in the x0 form, and 8.5 on frames in the standard form, time TV 0.1, a camera that moves
    in nine clips of ten (the released code's).

    `toybox`: 8 frames that share half of their noise, as its motion adapter was trained; guidance 10, a still camera;
    smoothness, a mean over seven million numbers, and rates chosen: with 100 all moments after the first got other
    colours.
    """
    small = preset == "toybox"
    recipe = animate124_still(preset, effort)
    still, known = recipe.field, recipe.field.known
    assert known is not None, "the still stage has the photo's camera"
    score = DistillationConfig(guidance_scale=10.0 if small else 101.0, weighting="sigma" if small else "x0")
    return AnimateRecipe(
        id="animate124",
        words=words(preset),
        stage=MotionStage(
            motion=MotionConfig(kind="grids", moments=8 if small else 64, free_start=True),
            fit=FitConfig(
                steps=_STEPS[effort],
                optimizer="adam",
                lr_schedule="constant",
                betas=(0.9, 0.99),
                eps=1e-15,
                max_gradient_norm=None,
            ),
            guidance=score,
            noise_share=0.5 if small else 0.0,
            frames=8 if small else 16,
            pictures=FrameScore(
                guidance=DistillationConfig(
                    guidance_scale=10.0 if small else 8.5, timesteps=TimestepLaw(low=(0.2, 0.2), high=(0.8, 0.8))
                ),
                since=0.5 if small else 0.75,
            ),
            first=FirstMoment(known=dataclasses.replace(known, first=0) if small else known, view=recipe.view),
            cameras=still.cameras,
            moving_camera=0.0 if small else 0.9,
            side=48 if small else 128,
            samples=48 if small else 96,
            unrest=2e7 if small else 0.1,
        ),
    )
