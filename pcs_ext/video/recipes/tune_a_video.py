"""Tune-A-Video (Wu et al. 2022, arXiv 2212.11565): an image model inflated to clips and tuned on one of them."""

from pcs_ext.image.fit import FitConfig
from pcs_ext.video.recipes.base import LayersConfig, MotionPass, MotionPhase, MotionRecipe, Preset
from pcs_ext.video.recipes.presets import sampling, small_frames


def tune_a_video(preset: Preset = "sd") -> MotionRecipe:
    """Queries of both spatial attentions and all of the new temporal attention, whole weights; 3e-5, 500 steps.

    The released configuration: 24 frames, every second of the source, squared error on noise, DDIM with 50 steps and a
    guidance of 12.5. The paper starts clips from the source's inverted noise: `video make --reference`.

    Differs from the released code: the new attentions' norms stay as they start, and their last bias starts at zero.
    `toybox`: 8 frames, 1e-3, 300 steps.
    """
    small = preset == "toybox"
    names = ("self_queries", "text_queries", "motion")
    return MotionRecipe(
        id="tune-a-video",
        adapters={
            "self_queries": LayersConfig(layers="spatial_self", method="full", projections=("to_q",)),
            "text_queries": LayersConfig(layers="cross_attention", method="full", projections=("to_q",)),
            "motion": LayersConfig(layers="temporal_attention", method="full"),
        },
        phases=(
            MotionPhase(
                name="clip",
                passes=(MotionPass(trains=names, losses={"denoising": 1.0}),),
                learning_rates=dict.fromkeys(names, 1e-3 if small else 3e-5),
                weight_decay=1e-2,
                fit=FitConfig(steps=300 if small else 500),
            ),
        ),
        plays=names,
        inflation="sparse-causal",
        frames=small_frames(preset, 24),
        stride=1 if small else 2,
        sampling=sampling(preset, steps=50, guidance_scale=12.5),
        reference_share=1.0,
    )
