"""Make-A-Protagonist (Zhao et al. 2023, arXiv 2305.08850): another protagonist in a clip, inside its mask."""

from pcs_ext.video.recipes.base import MotionRecipe, Preset
from pcs_ext.video.recipes.inflating import QUERIES, from_its_clip, inflating, whole


def make_a_protagonist(preset: Preset = "sd") -> MotionRecipe:
    """Queries of both spatial attentions and the new temporal attention, which looks back in time; 3e-5, 200 steps.

    The released configuration: 8 frames, squared error, 50 steps of DDIM from the clip's inverted noise, guidance 12.5.
    The swap itself is `video make --motion MOTION --mask MASKS` (`video.mask_fusion`).

    Differs from the released code: it tunes Stable Diffusion 2.1 unCLIP and tells it the protagonist by a CLIP image
    embedding; here any image base is tuned, and the protagonist is a learned subject, or words. No ControlNet, and
    masks are given instead of found by Grounding DINO, SAM and XMem. `toybox`: 8 frames, 1e-3, 300 steps.
    """
    return from_its_clip(
        inflating(
            preset,
            id="make-a-protagonist",
            adapters={**QUERIES, "motion": whole("temporal_attention")},
            inflation="causal",
            steps=200,
            frames=8,
        )
    )
