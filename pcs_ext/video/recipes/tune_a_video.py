"""Tune-A-Video (Wu et al. 2022, arXiv 2212.11565): an image model inflated to clips and tuned on one of them."""

import dataclasses

from pcs_ext.video.recipes.base import MotionRecipe, Preset
from pcs_ext.video.recipes.inflating import QUERIES, from_its_clip, inflating, whole


def tune_a_video(preset: Preset = "sd") -> MotionRecipe:
    """Queries of both spatial attentions and all of the new temporal attention, whole weights; 3e-5, 500 steps.

    The released configuration: 24 frames, every second of the source, squared error on noise, DDIM with 50 steps and a
    guidance of 12.5; one fixed window of the source, from whose inverted noise clips start. The motion keeps it.

    Differs from the released code: the new attentions' norms stay as they start, and their last bias starts at zero.
    `toybox`: 8 frames, 1e-3, 300 steps.
    """
    recipe = inflating(
        preset,
        id="tune-a-video",
        adapters={**QUERIES, "motion": whole("temporal_attention")},
        inflation="sparse-causal",
        steps=500,
        frames=24,
    )
    return dataclasses.replace(from_its_clip(recipe), stride=1 if preset == "toybox" else 2)
