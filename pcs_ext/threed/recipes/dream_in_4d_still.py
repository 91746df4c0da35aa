"""Dream-in-4D's first stage (Zheng et al., CVPR 2024, arXiv 2311.16854): a still scene from two models.

A view-joint model that does not know the subject gives the shape, the subject's own model, of single views, the
identity. The second stage is `dream_in_4d`. Differs from Dream-in-4D: a multi-view adapter beside the base instead of
MVDream's whole model; voxels instead of a hash grid; the subject comes from any recipe (the paper: DreamBooth by LoRA).
"""

import dataclasses

from pcs_ext.image.recipes import Preset
from pcs_ext.threed.camera_laws import CameraLaw
from pcs_ext.threed.distillation import RECONSTRUCTION, DistillationConfig, TimestepLaw
from pcs_ext.threed.guidance import SingleViews
from pcs_ext.threed.recipes.base import Effort, TextTo3dRecipe
from pcs_ext.threed.recipes.stages import placed, sds_stage, words
from pcs_ext.threed.view_prompts import ViewWords

_STEPS: dict[Effort, int] = {"fast": 100, "balanced": 400, "paper": 10_000}


def dream_in_4d_still(preset: Preset, effort: Effort) -> TextTo3dRecipe:
    """MVDream's recipe with weight 2, and the subject's score with weight 1: guidance 101 in the standard form, noise
    between 0.2 and 0.6, view words (the released code's). `toybox`: guidance 10 and 20."""
    small = preset == "toybox"
    stage = sds_stage(
        preset,
        _STEPS[effort],
        guidance=dataclasses.replace(RECONSTRUCTION, guidance_scale=10.0 if small else 50.0),
        cameras=CameraLaw(elevation=(0.0, 30.0), elevation_law="angle", views=4),
        views_per_step=4,
    )
    alone = DistillationConfig(
        guidance_scale=20.0 if small else 101.0, timesteps=TimestepLaw(low=(0.2, 0.2), high=(0.6, 0.6))
    )
    return TextTo3dRecipe(
        id="dream-in-4d-still",
        words=placed(ViewWords(front="", side="", back="", overhead=""), preset),
        joint=True,
        single=SingleViews(guidance=alone, words=placed(words(preset), preset)),
        field=stage,
    )
