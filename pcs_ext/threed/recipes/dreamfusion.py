"""DreamFusion (Poole et al., ICLR 2023, arXiv 2209.14988): a field by score distillation. The baseline.

On a learned subject this is what others call DreamBooth + DreamFusion: the fully tuned model is the teacher.
"""

from pcs_ext.image.recipes import Preset
from pcs_ext.threed.recipes.base import Effort, TextTo3dRecipe
from pcs_ext.threed.recipes.stages import placed, sds_stage, surface, words

_STEPS: dict[Effort, int] = {"fast": 400, "balanced": 1500, "paper": 10_000}
"""paper: what open versions take on Stable Diffusion at batch 1; the paper itself takes 15,000 at batch 4."""


def dreamfusion(preset: Preset, effort: Effort) -> TextTo3dRecipe:
    """One field from the model as it is."""
    stage = sds_stage(preset, _STEPS[effort])
    return TextTo3dRecipe(id="dreamfusion", words=placed(words(preset), preset), field=stage, mesh=surface(preset))
