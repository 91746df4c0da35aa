"""PAS (2023, "Text-conditional contextualized avatars for zero-shot personalization"): a pose from text for an avatar.

A diffusion model of poses under text drives a figure that is there, and its surroundings are painted around it. The
paper was read in abstract only. Differs from PAS: a skeleton and a body of the suite's own instead of a registered
model; poses of a grammar instead of a large set read off pictures of people, which is what the paper is about: words
outside of the grammar mean nothing to this pose model; a figure of a learned subject may also be painted, view by view.
Sizes, guidance and steps are ours.
"""

from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes import Preset
from pcs_ext.threed.avatar.pose_training import PoseStage
from pcs_ext.threed.avatar.view_painting import PaintingConfig
from pcs_ext.threed.recipes.base import Effort, PosedRecipe
from pcs_ext.threed.recipes.stages import words

_STEPS: dict[Effort, int] = {"fast": 300, "balanced": 1500, "paper": 20_000}
"""All ours: the paper's number was not read."""


def pas(preset: Preset, effort: Effort) -> PosedRecipe:
    """`toybox`: a body before light grey, from a little less noise, chosen by eye from four pictures."""
    small = preset == "toybox"
    return PosedRecipe(
        id="pas",
        words=words(preset),
        painting=PaintingConfig(background=0.8, strength=0.8) if small else PaintingConfig(),
        poses=PoseStage(fit=FitConfig(steps=_STEPS[effort], lr_schedule="cosine", warmup_steps=50, ema_decay=0.995)),
    )
