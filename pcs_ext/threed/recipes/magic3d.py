"""Magic3D (Lin et al., CVPR 2023, arXiv 2211.10440): a coarse field by score distillation, then its surface refined.

On a learned subject this is the paper's personalised variant: one tuned model teaches both stages. Not read again and
therefore recalled: numbers of steps, sizes of views and of the grid.
"""

import dataclasses

from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes import Preset
from pcs_ext.threed.camera_laws import CameraLaw
from pcs_ext.threed.lighting import Lighting
from pcs_ext.threed.materials import MaterialConfig
from pcs_ext.threed.mesh import MeshConfig
from pcs_ext.threed.recipes.base import Effort, RefinedTo3dRecipe
from pcs_ext.threed.recipes.stages import TOYBOX_CAMERAS, TOYBOX_LIGHTING, placed, score, sds_stage, surface, words
from pcs_ext.threed.surface import SurfaceConfig
from pcs_ext.threed.surface_stage import SurfaceStage

_STEPS: dict[Effort, tuple[int, int]] = {"fast": (250, 60), "balanced": (900, 500), "paper": (5000, 3000)}
"""Of the field and of the surface."""


def magic3d(preset: Preset, effort: Effort) -> RefinedTo3dRecipe:
    """`sd`: a grid of 128 cells, views of 512 pixels, a lens of 30 to 45 degrees, noise up to half of the schedule
    (threestudio's reproduction for the last two). `toybox`: 48 cells, views of 96 pixels that are read at 64; chosen,
    unmeasured.

    Differs from Magic3D: a voxel grid instead of hash grid and networks for the field and for the surface's colours;
    one model for both stages instead of a pixel model and a latent one; one view per step instead of 32; a plain or
    random background instead of a learned one.
    """
    small = preset == "toybox"
    coarse, fine = _STEPS[effort]
    materials = MaterialConfig(resolution=64 if small else 192)
    return RefinedTo3dRecipe(
        id="magic3d",
        words=placed(words(preset), preset),
        coarse=sds_stage(preset, coarse),
        mesh=MeshConfig(relative=surface(preset).relative),
        fine=SurfaceStage(
            surface=SurfaceConfig(cells=48 if small else 128, materials=materials),
            fit=FitConfig(
                steps=fine, optimizer="adam", lr_schedule="cosine", betas=(0.9, 0.99), eps=1e-15, max_gradient_norm=None
            ),
            guidance=score(preset, highest=0.5),
            cameras=TOYBOX_CAMERAS if small else _narrow(),
            side=96 if small else 512,
            supersampling=1 if small else 2,
            lighting=TOYBOX_LIGHTING if small else Lighting(albedo_until=0.0),
            smoothness=2000.0 if small else 10_000.0,
        ),
    )


def _narrow() -> CameraLaw:
    """A lens of 30 to 45 degrees, as near as an object two units tall then fills the view."""
    return dataclasses.replace(CameraLaw(), elevation=(-10.0, 45.0), fov=(30.0, 45.0), distance=(4.0, 5.0))
