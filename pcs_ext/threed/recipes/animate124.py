"""Animate124 (Zhao et al. 2023, arXiv 2311.14603): a still scene set in motion on grids along time.

The video model judges clips; later the image model with the learned subject in it judges two frames of each as well,
against the drift of its looks. Differs from Animate124: the still scene comes from any job of `3d make` and the subject
from any recipe, where the paper starts from one picture with an image-conditioned model of views; no such model and no
ControlNet judges frames; the camera of a clip stands still; clips last from the first moment to the last.
"""

from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes import Preset
from pcs_ext.threed.camera_laws import CameraLaw
from pcs_ext.threed.distillation import DistillationConfig, TimestepLaw
from pcs_ext.threed.motion_stage import FrameScore, MotionStage
from pcs_ext.threed.moving_fields import MotionConfig
from pcs_ext.threed.recipes.base import AnimateRecipe, Effort
from pcs_ext.threed.recipes.stages import words

_STEPS: dict[Effort, int] = {"fast": 60, "balanced": 300, "paper": 20_000}
"""paper: 15,000 of the clips alone, then on to 20,000."""


def animate124(preset: Preset, effort: Effort) -> AnimateRecipe:
    """Guidance 101 on clips and 8.5 on frames in the standard form, time TV 0.1 (the released code's).

    `toybox`: 8 frames that share half of their noise, as its motion adapter was trained; guidance 10; smoothness, a
    mean over seven million numbers, and rates chosen: with 100 all moments after the first got other colours.
    """
    small = preset == "toybox"
    return AnimateRecipe(
        id="animate124",
        words=words(preset),
        stage=MotionStage(
            motion=MotionConfig(kind="grids", moments=8 if small else 64),
            fit=FitConfig(
                steps=_STEPS[effort],
                optimizer="adam",
                lr_schedule="constant",
                betas=(0.9, 0.99),
                eps=1e-15,
                max_gradient_norm=None,
            ),
            guidance=DistillationConfig(guidance_scale=10.0 if small else 101.0),
            noise_share=0.5 if small else 0.0,
            frames=8 if small else 16,
            pictures=FrameScore(
                guidance=DistillationConfig(
                    guidance_scale=10.0 if small else 8.5, timesteps=TimestepLaw(low=(0.2, 0.2), high=(0.8, 0.8))
                ),
                since=0.5 if small else 0.75,
            ),
            cameras=CameraLaw(elevation=(0.0, 30.0) if small else (-10.0, 45.0)),
            side=48 if small else 128,
            samples=48 if small else 96,
            unrest=2e7 if small else 0.1,
        ),
    )
