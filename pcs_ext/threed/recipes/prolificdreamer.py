"""ProlificDreamer's first stage (Wang et al., NeurIPS 2023, arXiv 2305.16213): variational score distillation."""

import dataclasses

from pcs_ext.image.recipes import Preset
from pcs_ext.threed.distillation import DistillationConfig, TimestepLaw
from pcs_ext.threed.recipes.base import Effort, TextTo3dRecipe
from pcs_ext.threed.recipes.stages import placed, sds_stage, words
from pcs_ext.threed.variational import VariationalConfig

_STEPS: dict[Effort, int] = {"fast": 300, "balanced": 900, "paper": 25_000}


def prolificdreamer(preset: Preset, effort: Effort) -> TextTo3dRecipe:
    """Guidance 7.5 for the pretrained score, 1 for the one that learns; timesteps up to 0.98, later 0.5; views change
    at 30 degrees.

    Differs from ProlificDreamer: the bound falls linearly over the first fifth instead of at once, one size of views,
    and no later stages on the mesh.
    """
    score = DistillationConfig(guidance_scale=7.5, timesteps=TimestepLaw(high=(0.98, 0.5), until=0.2))
    small = preset == "toybox"
    said = placed(words(preset), preset) if small else dataclasses.replace(words(preset), front_angle=30.0)
    stage = sds_stage(preset, _STEPS[effort], guidance=VariationalConfig(score=score))
    return TextTo3dRecipe(id="prolificdreamer", words=said, field=stage)
