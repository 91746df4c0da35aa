"""TIP-Editor (Zhuang et al., SIGGRAPH 2024, arXiv 2401.14828): something new in a box of a scene.

The scene becomes splats. The base learns the scene and where the new thing is to be, by turns; then the whole scene's
and the content's own score fill the box with splats, the share of the first falling, and splats that leave the box,
grow too large or fade are pruned; at last pictures of the edit, a little noised and denoised, are fitted, with the
scene's own pictures where the edit is not seen. Differs from TIP-Editor: the scene's splats are fitted to pictures of a
finished field, on whose surface they start, instead of grown from a capture; where the box holds less than the
content's count, new splats start at random places in it; the subject comes as any recipe learned it, before the scene
instead of after it; low-rank updates instead of the whole denoiser hold the scene, without prior preservation; cameras
do not enter the model.
"""

from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes import Preset
from pcs_ext.threed.camera_laws import CameraLaw
from pcs_ext.threed.distillation import DistillationConfig, TimestepLaw
from pcs_ext.threed.edit_refine import RefineConfig
from pcs_ext.threed.edit_stage import EditStage
from pcs_ext.threed.localization import LocalizationConfig
from pcs_ext.threed.recipes.base import EditRecipe, Effort
from pcs_ext.threed.recipes.stages import words
from pcs_ext.threed.splat_fit import SplatFit
from pcs_ext.threed.splats import SplatRates

_STEPS: dict[Effort, tuple[int, int, int, int]] = {
    "fast": (150, 40, 100, 30),
    "balanced": (300, 300, 1000, 200),
    "paper": (3000, 1000, 5000, 1000),
}
"""Of the scene's splats (the paper: 40,000, with splats that grow), the place, the edit and the refinement."""


def tip_editor(preset: Preset, effort: Effort) -> EditRecipe:
    """Weights, rates and shares of the released code.

    `toybox`, chosen, looked at for one edit: 1e-3 for the scene; higher rates of fewer splats that start less
    transparent, for fewer steps; guidance 30 without clamping; and more of the content's own score from the start,
    because the base hardly knows two toys in one picture.
    """
    small = preset == "toybox"
    scene, place, edit, refine = _STEPS[effort]
    side = 64 if small else 128
    return EditRecipe(
        id="tip-editor",
        words=words(preset),
        scene=SplatFit(fit=_adam(scene), count=3000 if small else 10_000, side=side),
        place=LocalizationConfig(fit=FitConfig(steps=place), learning_rate=1e-3 if small else 1e-4),
        stage=EditStage(
            fit=_adam(edit),
            cameras=CameraLaw(elevation=(0.0, 45.0) if small else (-10.0, 45.0)),
            count=1000 if small else 4000,
            raw_opacity=-2.0 if small else -4.5,
            rates=SplatRates(place=6e-3, color=0.05, opacity=0.1, scale=0.02, turn=0.02) if small else SplatRates(),
            guidance=_score(30.0, None) if small else _score(11.0, 1.0),
            share=(0.3, 0.3) if small else (0.99, 0.5),
        ),
        refine=RefineConfig(pictures=SplatFit(fit=_adam(refine), side=side, rates=SplatRates())),
    )


def _score(guidance_scale: float, max_gradient: float | None) -> DistillationConfig:
    law = TimestepLaw(low=(0.02, 0.02), high=(0.75, 0.25), until=1.0)
    return DistillationConfig(guidance_scale=guidance_scale, timesteps=law, max_gradient=max_gradient)


def _adam(steps: int) -> FitConfig:
    return FitConfig(
        steps=steps, optimizer="adam", lr_schedule="cosine", betas=(0.9, 0.99), eps=1e-15, max_gradient_norm=None
    )
