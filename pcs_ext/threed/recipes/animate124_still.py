"""Animate124's still scene (Zhao et al. 2023, arXiv 2311.14603): one photo, an image model and a view model.

Every fourth step, and the first hundred, look at the photo from its own camera and at nothing else; the others take the
image model's score of the subject and, forty times as strong, that of a view model shown the photo. Differs from
Animate124: voxels instead of hash grids with a network; the learned word stands in this stage's prompts already; the
smoothness of rendered normals is left out, density is smoothed instead; a plain or random grey background instead of a
random colour. Without a view model (none ships) words alone say what other sides look like.
"""

from pcs_ext.image.recipes import Preset
from pcs_ext.threed.camera_laws import CameraLaw
from pcs_ext.threed.distillation import DistillationConfig, TimestepLaw
from pcs_ext.threed.known_view import KnownView
from pcs_ext.threed.lighting import Lighting
from pcs_ext.threed.recipes.base import Effort, SeenTo3dRecipe
from pcs_ext.threed.recipes.stages import sds_stage, words
from pcs_ext.threed.view_guidance import ViewScore

_STEPS: dict[Effort, int] = {"fast": 300, "balanced": 1200, "paper": 5000}


def animate124_still(preset: Preset, effort: Effort) -> SeenTo3dRecipe:
    """`sd`: guidance 101 in the standard form, noise between 0.2 and 0.6, elevation -45 to 45, one distance and lens,
    normals as colours for the first fifth (the released code's). `toybox`: guidance 20, elevation 0 to 30, no normals.
    """
    small = preset == "toybox"
    known = _known_view(preset)
    stage = sds_stage(
        preset,
        _STEPS[effort],
        guidance=DistillationConfig(
            guidance_scale=20.0 if small else 101.0, timesteps=TimestepLaw(low=(0.2, 0.2), high=(0.6, 0.6))
        ),
        cameras=CameraLaw(
            elevation=(0.0, 30.0) if small else (-45.0, 45.0),
            distance=(known.distance, known.distance),
            fov=(known.fov, known.fov),
        ),
        side=64 if small else 128,
        known=known,
        lighting=Lighting(shaded=0.0)
        if small
        else Lighting(albedo_until=0.2, normals_until=0.2, shaded=1.0, textureless=0.2),
    )
    # A view model of the embedded world: in its units, of a score that sums 1,024 cells; both chosen.
    view = ViewScore(weight=10.0, unit=1.0) if small else ViewScore()
    return SeenTo3dRecipe(id="animate124-still", words=words(preset), view=view, field=stage)


def _known_view(preset: Preset) -> KnownView:
    """The photo's camera and weights: the released code's (`sd`), or chosen (`toybox`).

    On the small base scores are sums over 1,024 cells, and a mean over pixels must weigh more to be seen beside them.
    """
    if preset == "toybox":
        return KnownView(elevation=15.0, first=60, color=2000.0, cover=500.0, depth=20.0)
    return KnownView(side=192)
