"""AvatarBooth (Zeng et al. 2023, arXiv 2306.09864): one avatar from a model of the body and a model of the head.

A surface that starts as a body learns from the one or the other, as the camera looks at all of it or at its head. Both
subjects are learned before, from photos of each (the paper: DreamBooth or LoRA). Differs from AvatarBooth: distances on
a grid instead of a network's, with NeuS's opacity (on toybox VolSDF's), a body of capsules instead of a registered
model, views of a whole picture instead of rays inside a mask, no extra photos in given poses, which need a ControlNet
of poses: give photos in several poses to `learn` instead.
"""

from pcs_ext.image.recipes import Preset
from pcs_ext.threed.body_template import HEAD
from pcs_ext.threed.camera_laws import CameraLaw
from pcs_ext.threed.distillation import DistillationConfig, TimestepLaw
from pcs_ext.threed.field_config import FieldConfig
from pcs_ext.threed.field_stage import CloseUps, Penalties
from pcs_ext.threed.lighting import Lighting
from pcs_ext.threed.recipes.base import AvatarTo3dRecipe, Effort
from pcs_ext.threed.recipes.stages import TOYBOX_LIGHTING, placed, sds_stage, words

_STEPS: dict[Effort, int] = {"fast": 300, "balanced": 1200, "paper": 8000}
"""paper: where the released loop stops."""
_NEGATIVE = "blurry, deformed, extra limbs, extra heads, text"
"""The released code has a long one; these words are ours."""


def avatarbooth(preset: Preset, effort: Effort) -> AvatarTo3dRecipe:
    """Guidance 101 in the standard form, noise up to 0.7 of the schedule (the released code: 100 in its own form).

    A tenth of the steps each shows shaded views and, from the front, normals; views are judged at 640 instead of 512
    pixels from step 3,000 of 8,000 on and at 768 from 4,000 (the released code's). `toybox`: guidance 20, unshaded, at
    one resolution, because the small base knows neither normals nor larger pictures. The share of close-ups, their lens
    and the weights of the eikonal term, which stands beside a sum here, and of the colours' variation, in the place of
    a network's smoothness, are chosen.
    """
    small = preset == "toybox"
    near = (0.0, 30.0) if small else (-10.0, 30.0)
    return AvatarTo3dRecipe(
        id="avatarbooth",
        words=placed(words(preset), preset),
        negative_prompt="" if small else _NEGATIVE,
        field=sds_stage(
            preset,
            _STEPS[effort],
            field=FieldConfig(
                kind="sdf",
                resolution=64 if small else 96,
                template="body",
                opacity="volsdf" if small else "neus",
            ),
            guidance=DistillationConfig(
                guidance_scale=20.0 if small else 101.0,
                timesteps=TimestepLaw(high=(0.7, 0.7)),
                growth=() if small else ((3 / 8, 640 / 512), (4 / 8, 768 / 512)),
            ),
            lighting=TOYBOX_LIGHTING if small else Lighting(shaded=0.1, textureless=0.0, normals=0.1),
            cameras=CameraLaw(elevation=(0.0, 45.0) if small else (-10.0, 45.0), target=(0.0, 0.0, 1.0)),
            close_ups=CloseUps(cameras=CameraLaw(elevation=near, distance=(1.4, 1.9), target=HEAD), share=0.3),
            penalties=Penalties(eikonal=50.0, variation=500.0),
        ),
    )
