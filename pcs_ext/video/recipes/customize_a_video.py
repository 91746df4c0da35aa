"""Customize-A-Video (Ren et al. 2024, arXiv 2402.14780): absorb the appearance first, then learn what is left."""

from pcs_ext.image.fit import FitConfig
from pcs_ext.video.recipes.base import MotionPass, MotionPhase, MotionRecipe, Preset
from pcs_ext.video.recipes.layers import LayersConfig
from pcs_ext.video.recipes.presets import sampling, small_frames


def customize_a_video(preset: Preset = "sd") -> MotionRecipe:
    """A spatial LoRA on single frames past all temporal layers, then a temporal LoRA with it in place; rank 4.

    The rank is that of the paper's comparison; rates and steps were not found and are ours, MotionDirector's. The
    paper's other absorber, a learned word, is left out.
    `toybox`: 8 frames, 2e-3; not measured.
    """
    absorb = MotionPass(trains=("appearance",), frames="one", losses={"denoising": 1.0})
    learn = MotionPass(trains=("motion",), beside=("appearance",), losses={"denoising": 1.0})
    return MotionRecipe(
        id="customize-a-video",
        adapters={
            "appearance": LayersConfig(layers="spatial_self", rank=4),
            "motion": LayersConfig(layers="temporal_attention", rank=4),
        },
        phases=tuple(
            MotionPhase(
                name=name,
                passes=(step,),
                learning_rates={adapter: 2e-3 if preset == "toybox" else 5e-4},
                weight_decay=1e-2,
                fit=FitConfig(steps=steps),
            )
            for name, step, adapter, steps in (
                ("absorb", absorb, "appearance", 150),
                ("motion", learn, "motion", 150),
            )
        ),
        plays=("motion",),
        frames=small_frames(preset, 16),
        sampling=sampling(preset, steps=30, guidance_scale=12.0),
    )
