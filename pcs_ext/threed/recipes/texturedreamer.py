"""TextureDreamer (Yeh et al., CVPR 2024, arXiv 2401.09416): a subject's look on another mesh.

Differs from TextureDreamer: the subject comes as any recipe learned it (the paper tunes the denoiser alone, on photos
over white, without prior preservation: `learn --recipe dreambooth` with masks is nearest); four lamps and even light
instead of a photographed environment, without shadows. Without a ControlNet, and none exists for the embedded base, the
score is not geometry-aware: what the paper found best, normals, is then missing.
"""

from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes import Preset
from pcs_ext.threed.camera_laws import CameraLaw
from pcs_ext.threed.materials import MaterialConfig
from pcs_ext.threed.recipes.base import Effort, TextureRecipe
from pcs_ext.threed.recipes.stages import words
from pcs_ext.threed.texture_stage import TextureStage

_STEPS: dict[Effort, int] = {"fast": 60, "balanced": 600, "paper": 10_000}
"""paper: what its framework's recipes take; the paper's own number was not read."""


def texturedreamer(preset: Preset, effort: Effort) -> TextureRecipe:
    """No guidance beyond the two scores, a hash grid at 0.01, its network at 0.001, cameras' embedding at 1e-4.

    `toybox`: a voxel grid and views of 96 pixels, chosen, unmeasured.
    """
    small = preset == "toybox"
    fine = MaterialConfig(kind="hash", resolution=1024, learning_rate=0.01)
    return TextureRecipe(
        id="texturedreamer",
        words=words(preset),
        stage=TextureStage(
            materials=MaterialConfig(resolution=64, learning_rate=0.05) if small else fine,
            fit=FitConfig(steps=_STEPS[effort], optimizer="adam", betas=(0.9, 0.99), eps=1e-15, max_gradient_norm=None),
            cameras=CameraLaw(elevation=(0.0, 45.0) if small else (-10.0, 45.0)),
            side=96 if small else 512,
            supersampling=1 if small else 2,
        ),
    )
