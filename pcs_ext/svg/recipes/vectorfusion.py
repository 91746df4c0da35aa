"""VectorFusion (Jain et al., CVPR 2023, arXiv 2211.11319): a text as paths, by score distillation. A baseline.

Differs from VectorFusion: one sample instead of the best of several by CLIP, and paths that vanish are not replaced.
"""

from pcs_ext.image.recipes import Preset
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.svg.recipes.base import TextToVectorRecipe
from pcs_ext.svg.vector.distill import PathDistillation
from pcs_ext.svg.vector.vectorize import Vectorization


def vectorfusion(noun: str, preset: Preset) -> TextToVectorRecipe:
    """128 paths from LIVE, 1000 steps at guidance 100 (open re-implementations); `toybox`: 32 paths, 100 steps, 20."""
    del noun
    small = preset == "toybox"
    return TextToVectorRecipe(
        id="vectorfusion",
        prompt_template="flat vector art of {prompt}" if small else "{prompt}, minimal flat 2d vector icon",
        sampling=SAMPLING[preset],
        vectorization=Vectorization(paths=32 if small else 128, side=96 if small else 224),
        distillation=PathDistillation(
            steps=100 if small else 1000, guidance_scale=20.0 if small else 100.0, point_lr=0.3 if small else 1.0
        ),
    )
