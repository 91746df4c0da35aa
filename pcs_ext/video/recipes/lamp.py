"""LAMP (Wu et al. 2023, arXiv 2310.10769): a motion of few clips, as what follows a first frame."""

import dataclasses

from pcs_ext.video.recipes.base import MotionRecipe, Preset
from pcs_ext.video.recipes.inflating import QUERIES, inflating, whole
from pcs_ext.video.sample import ClipConfig


def lamp(preset: Preset = "sd") -> MotionRecipe:
    """Queries of self-attention, new temporal attention and gated convolutions, whole weights; 3e-5, 30,000 steps.

    The released configuration for 8 to 16 clips: 16 frames, the first one clean and out of the loss, DDIM with 50
    steps, guidance 12.5, a fifth of the noise common to all frames. The first frame is a picture of the same base, or
    a given one (`video make --picture`).

    Differs from the paper: the first frame is made by the base itself, not by SDXL; see `GatedConvolution` and
    `shared_noise` too. `toybox`: 8 frames, 1e-3, 300 steps.
    """
    recipe = inflating(
        preset,
        id="lamp",
        adapters={"self_queries": QUERIES["self_queries"], "motion": whole("temporal_weights")},
        inflation="first",
        steps=30_000,
        frames=16,
        loss="after_first",
    )
    return dataclasses.replace(recipe, clip=ClipConfig(noise="shared", share=0.2, first_frame=True))
