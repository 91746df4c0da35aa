"""LAMP (Wu et al. 2023, arXiv 2310.10769): a motion of few clips, as what follows a first frame."""

from pcs_ext.image.fit import FitConfig
from pcs_ext.video.recipes.base import LayersConfig, MotionPass, MotionPhase, MotionRecipe, Preset
from pcs_ext.video.recipes.presets import sampling, small_frames
from pcs_ext.video.sample import ClipConfig


def lamp(preset: Preset = "sd") -> MotionRecipe:
    """Queries of self-attention, new temporal attention and gated convolutions, whole weights; 3e-5, 30,000 steps.

    The released configuration for 8 to 16 clips: 16 frames, the first one clean and out of the loss, DDIM with 50
    steps, guidance 12.5, a fifth of the noise common to all frames. The first frame is a picture of the same base, or
    a given one (`video make --first-frame`).

    Differs from the paper: the first frame is made by the base itself, not by SDXL; see `GatedConvolution` and
    `shared_noise` too. `toybox`: 8 frames, 1e-3, 300 steps.
    """
    small, names = preset == "toybox", ("self_queries", "motion")
    return MotionRecipe(
        id="lamp",
        adapters={
            "self_queries": LayersConfig(layers="spatial_self", method="full", projections=("to_q",)),
            "motion": LayersConfig(layers="temporal_weights", method="full"),
        },
        phases=(
            MotionPhase(
                name="clips",
                passes=(MotionPass(trains=names, losses={"after_first": 1.0}),),
                learning_rates=dict.fromkeys(names, 1e-3 if small else 3e-5),
                weight_decay=1e-2,
                fit=FitConfig(steps=300 if small else 30_000),
            ),
        ),
        plays=names,
        inflation="first",
        frames=small_frames(preset, 16),
        sampling=sampling(preset, steps=50, guidance_scale=12.5),
        clip=ClipConfig(noise="shared", share=0.2, first_frame=True),
    )
