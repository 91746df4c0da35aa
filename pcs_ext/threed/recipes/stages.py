"""Field stages that several recipes share."""

import dataclasses
from typing import Any

from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes import Preset
from pcs_ext.threed.camera_laws import CameraLaw
from pcs_ext.threed.distillation import DistillationConfig, TimestepLaw
from pcs_ext.threed.field_config import FieldConfig
from pcs_ext.threed.field_stage import FieldStage, Penalties
from pcs_ext.threed.lighting import Lighting
from pcs_ext.threed.mesh import MeshConfig
from pcs_ext.threed.view_prompts import DIRECTIONS, ViewWords

TOYBOX_WORDS = ViewWords(front_angle=40.0, overhead_elevation=50.0)
"""Where the embedded world's captions change their view words."""
_PLACE = " on a plain background"
"""A place of the embedded world, before the view words: its base has seen no toy without ground and sky."""
TOYBOX_LIGHTING = Lighting(shaded=0.0, plain=0.84, random_background=0.0)
"""Unshaded, because the small base draws shaded toys itself, before the grey of that place."""
TOYBOX_CAMERAS = CameraLaw(
    elevation=(4.0, 28.0), elevation_law="angle", distance=(4.0, 4.8), fov=(31.0, 33.0), target=(0.0, 0.0, 0.85)
)
"""From where the embedded world is photographed."""


def words(preset: Preset) -> ViewWords:
    """View words that fit a base."""
    return TOYBOX_WORDS if preset == "toybox" else ViewWords()


def placed(said: ViewWords, preset: Preset) -> ViewWords:
    """View words for what is rendered before a plain background: `toybox` is told its place, `sd` nothing."""
    if preset != "toybox":
        return said
    return dataclasses.replace(said, **{name: _PLACE + getattr(said, name) for name in DIRECTIONS})


def score(preset: Preset, highest: float = 0.98) -> DistillationConfig:
    """How single views are judged.

    `sd`: guidance 101 in the standard form (open versions of DreamFusion: 100), any level up to `highest`. `toybox`:
    guidance 3.5 (5 has harder contrast and thinner legs, 2 is paler), levels that fall from `highest` to 0.1, noise
    that is kept and turns with the view: by it a sample of the small base is reached, with noise drawn anew the blurred
    mean of all.
    """
    if preset != "toybox":
        return DistillationConfig(guidance_scale=101.0, timesteps=TimestepLaw(high=(highest, highest)))
    law = TimestepLaw(kind="sqrt", low=(0.1, 0.1), high=(highest, highest))
    return DistillationConfig(guidance_scale=3.5, timesteps=law, noise="kept", harmonics=1)


def surface(preset: Preset) -> MeshConfig:
    """How what `score` made is cut out.

    `sd`: at half of the greatest density where none is high. `toybox`: at 0.15 of it; densities stay low, and half of
    them left holes (overlap of silhouettes with the toys' 0.23, then 0.53; `dreamfusion`, rex and pip, three seeds).
    """
    return MeshConfig(resolution=96, relative=0.15 if preset == "toybox" else 0.5)


def sds_stage(preset: Preset, steps: int, **changes: Any) -> FieldStage:
    """Score distillation into a voxel field, by `score`.

    `sd`: elevation -10 to 45, shading after 7 % of the steps, Adam without decay; `toybox`: unshaded, from where its
    world is photographed, before the grey of a place that `placed` names; under kept noise with 0.3 of the penalty on
    opacity, which left things half clear (mean opacity where rex is: 0.58 at 30, 0.63 at 10, guidance 2; 0.40 at 100,
    guidance 3; one seed). Differs from DreamFusion: a voxel grid instead of a network, a plain or random background
    instead of a learned one, 64 samples per ray.
    """
    small, guidance = preset == "toybox", changes.get("guidance", score(preset))
    kept = isinstance(guidance, DistillationConfig) and guidance.noise == "kept"
    settings: dict[str, Any] = {
        "field": FieldConfig(kind="voxel", resolution=64),
        "fit": FitConfig(
            steps=steps, optimizer="adam", lr_schedule="cosine", betas=(0.9, 0.99), eps=1e-15, max_gradient_norm=None
        ),
        "guidance": guidance,
        "cameras": TOYBOX_CAMERAS if small else CameraLaw(elevation=(-10.0, 45.0)),
        "lighting": TOYBOX_LIGHTING if small else Lighting(),
        "penalties": Penalties(
            opacity=30.0 if kept else 100.0, entropy=20.0, variation=20.0, orientation=0.0 if small else 10.0
        ),
    }
    return FieldStage(**{**settings, **changes})
