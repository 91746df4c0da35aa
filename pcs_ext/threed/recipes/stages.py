"""Field stages that several recipes share."""

from typing import Any

from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes import Preset
from pcs_ext.threed.camera_laws import CameraLaw
from pcs_ext.threed.distillation import DistillationConfig
from pcs_ext.threed.field_config import FieldConfig
from pcs_ext.threed.field_stage import FieldStage, Penalties
from pcs_ext.threed.lighting import Lighting
from pcs_ext.threed.view_prompts import ViewWords

TOYBOX_WORDS = ViewWords(front_angle=40.0, overhead_elevation=50.0)
"""Where the embedded world's captions change their view words."""


def words(preset: Preset) -> ViewWords:
    """View words that fit a base."""
    return TOYBOX_WORDS if preset == "toybox" else ViewWords()


def sds_stage(preset: Preset, steps: int, **changes: Any) -> FieldStage:
    """Score distillation into a voxel field.

    `sd`: guidance 101 in the standard form (open versions of DreamFusion: 100), elevation -10 to 45, shading after 7 %
    of the steps, Adam without decay; `toybox`: guidance 20, elevation 0 to 45, unshaded, because the small base draws
    shaded toys itself. Differs from DreamFusion: a voxel grid instead of a network, a plain or random background
    instead of a learned one, 64 samples per ray.
    """
    small = preset == "toybox"
    settings: dict[str, Any] = {
        "field": FieldConfig(kind="voxel", resolution=64),
        "fit": FitConfig(
            steps=steps, optimizer="adam", lr_schedule="cosine", betas=(0.9, 0.99), eps=1e-15, max_gradient_norm=None
        ),
        "guidance": DistillationConfig(guidance_scale=20.0 if small else 101.0),
        "cameras": CameraLaw(elevation=(0.0, 45.0) if small else (-10.0, 45.0)),
        "lighting": Lighting(shaded=0.0) if small else Lighting(),
        "penalties": Penalties(opacity=100.0, entropy=20.0, variation=20.0, orientation=0.0 if small else 10.0),
    }
    return FieldStage(**{**settings, **changes})
