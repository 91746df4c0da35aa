"""TIP-Editor (Zhuang et al., SIGGRAPH 2024, arXiv 2401.14828): something new in a box of a scene.

The base learns the scene and where the new thing is to be, by turns; then the whole scene's and the content's own score
fill the box, the share of the first falling. Differs from TIP-Editor: scenes are fields, there are no splats here, and
the content is a field of its own that cannot leave the box, where the paper prunes splats; the subject comes as any
recipe learned it, before the scene instead of after it; low-rank updates instead of the whole denoiser hold the scene,
without prior preservation; cameras do not enter the model; the last step, a refinement by pictures, is left out.
"""

from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes import Preset
from pcs_ext.threed.camera_laws import CameraLaw
from pcs_ext.threed.edit_stage import EditStage
from pcs_ext.threed.localization import LocalizationConfig
from pcs_ext.threed.recipes.base import EditRecipe, Effort
from pcs_ext.threed.recipes.stages import words

_STEPS: dict[Effort, tuple[int, int]] = {"fast": (40, 100), "balanced": (300, 1000), "paper": (1000, 5000)}
"""Of the scene's and of the edit's stage."""


def tip_editor(preset: Preset, effort: Effort) -> EditRecipe:
    """Weights and shares of the released code.

    `toybox`, all chosen and unmeasured: 1e-3 for the scene; coarser content that is held together, because fine voxels
    alone turned to dust; and more of the content's own score from the start, because the base hardly knows two toys in
    one picture.
    """
    small = preset == "toybox"
    scene, edit = _STEPS[effort]
    return EditRecipe(
        id="tip-editor",
        words=words(preset),
        place=LocalizationConfig(fit=FitConfig(steps=scene), learning_rate=1e-3 if small else 1e-4),
        stage=EditStage(
            fit=FitConfig(
                steps=edit, optimizer="adam", lr_schedule="cosine", betas=(0.9, 0.99), eps=1e-15, max_gradient_norm=None
            ),
            cameras=CameraLaw(elevation=(0.0, 45.0) if small else (-10.0, 45.0)),
            resolution=32 if small else 64,
            variation=20.0 if small else 0.0,
            share=(0.6, 0.4) if small else (0.99, 0.5),
        ),
    )
