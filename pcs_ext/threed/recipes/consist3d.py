"""Consist3D (Ouyang et al. 2023): one photo, two tokens, then score Jacobian chaining with little guidance.

The learned subject given is the first, semantic token: textual inversion of the photo. The second one is learned here
from the photo turned by its depth: where a turned view shows something, its denoising error is the warp loss, that of
the photo itself the reconstruction loss. With both in the prompt a voxel field learns by SJC.

The paper was read in abstract and in another paper's table only: its scales, steps, depth and the form of its losses
are not known, and what stands here is chosen. Differs from Consist3D: the depth is the caller's, or the outline
inflated, because no depth estimator belongs to the suite.
"""

import dataclasses

from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes import Preset
from pcs_ext.threed.distillation import SJC
from pcs_ext.threed.recipes.base import Effort, PhotoTo3dRecipe
from pcs_ext.threed.recipes.stages import placed, sds_stage, words
from pcs_ext.threed.turned_views import ShapeWordConfig

_STEPS: dict[Effort, tuple[int, int]] = {"fast": (100, 400), "balanced": (300, 1500), "paper": (3000, 10_000)}
"""Of the second token and of the field. paper: as for textual inversion and `dreamfusion`, for want of the paper's."""


def consist3d(preset: Preset, effort: Effort) -> PhotoTo3dRecipe:
    """Guidance 20 (`sd`) or 7.5 (`toybox`) instead of SJC's 101: two tokens allow a low scale, says the paper.

    The second token learns at textual inversion's rates. All chosen, unmeasured.
    """
    small = preset == "toybox"
    word, field = _STEPS[effort]
    return PhotoTo3dRecipe(
        id="consist3d",
        words=placed(words(preset), preset),
        shape_word=ShapeWordConfig(
            fit=FitConfig(steps=word), learning_rate=1e-2 if small else 2e-3, batch_size=4 if small else 1
        ),
        field=sds_stage(preset, field, guidance=dataclasses.replace(SJC, guidance_scale=7.5 if small else 20.0)),
    )
