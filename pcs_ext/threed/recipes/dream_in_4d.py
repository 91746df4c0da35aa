"""Dream-in-4D (Zheng et al., CVPR 2024, arXiv 2311.16854): a still scene, frozen, and where its points are later.

Only displacements learn, by the video model's score; the scene keeps its looks because nothing else can change. The
still scene is its first stage's, `dream_in_4d_still`, or that of any other job of `3d make`. Differs from Dream-in-4D:
a grid of displacements instead of a hash grid with a network; the loss on decoded pictures and several denoising steps
per score are left out; smoothness is asked of the displacements' grid instead of rendered maps of it.
"""

from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes import Preset
from pcs_ext.threed.camera_laws import CameraLaw
from pcs_ext.threed.distillation import DistillationConfig, TimestepLaw
from pcs_ext.threed.motion_stage import MotionStage
from pcs_ext.threed.moving_fields import MotionConfig
from pcs_ext.threed.recipes.base import AnimateRecipe, Effort
from pcs_ext.threed.recipes.stages import words

_STEPS: dict[Effort, int] = {"fast": 60, "balanced": 300, "paper": 10_000}


def dream_in_4d(preset: Preset, effort: Effort) -> AnimateRecipe:
    """Guidance 101 in the standard form, noise from 0.99 down to between 0.2 and 0.5 (the released code's).

    Smoothness is chosen: it is a mean over the grid beside a score that is a sum (the released code: 1000, of rendered
    maps). On toybox 5,000 let the shape jump once, after the first moment. `toybox`: 8 frames that share half of their
    noise, guidance 10.
    """
    small = preset == "toybox"
    return AnimateRecipe(
        id="dream-in-4d",
        words=words(preset),
        stage=MotionStage(
            motion=MotionConfig(kind="displaced", moments=8 if small else 24, resolution=12 if small else 24),
            fit=FitConfig(
                steps=_STEPS[effort],
                optimizer="adamw",
                lr_schedule="cosine",
                betas=(0.9, 0.99),
                eps=1e-15,
                max_gradient_norm=None,
            ),
            guidance=DistillationConfig(
                guidance_scale=10.0 if small else 101.0,
                timesteps=TimestepLaw(low=(0.99, 0.2), high=(0.99, 0.5), until=1.0),
            ),
            noise_share=0.5 if small else 0.0,
            frames=8 if small else 24,
            cameras=CameraLaw(elevation=(0.0, 30.0) if small else (-10.0, 45.0), azimuth=(-150.0, 150.0)),
            side=48 if small else 80,
            samples=48 if small else 96,
            unrest=200_000.0,
        ),
    )
