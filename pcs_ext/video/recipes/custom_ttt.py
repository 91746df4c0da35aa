"""CustomTTT (Bi et al. 2024, arXiv 2412.15646): LoRA where the prompt speaks, and training at test time."""

from pcs_ext.image.fit import FitConfig
from pcs_ext.video.alignment import AlignmentConfig
from pcs_ext.video.recipes.base import MotionPass, MotionPhase, MotionRecipe, Preset
from pcs_ext.video.recipes.layers import LayersConfig
from pcs_ext.video.recipes.presets import sampling, small_frames


def custom_ttt(preset: Preset = "sd") -> MotionRecipe:
    """A temporal LoRA in those two of seven blocks through which the prompt changes the clip most (`video.influence`).

    When a clip is made of this motion and of any learned subject, both are tuned to each other for that prompt, with
    the subject alone and the motion alone as teachers, and are as they were afterwards (`video.alignment`).

    Choosing layers by the prompt's influence (its page finds two of seven for motion), learning apart and the teachers
    are the paper's. The losses, rank 32, 5e-4, 150 steps and the sampling (MotionDirector's) are ours: its own were not
    found. The look is a subject of any recipe instead of a LoRA of its own. `toybox`: rank 8, 8 frames, 2e-3; not
    measured.
    """
    small = preset == "toybox"
    return MotionRecipe(
        id="customttt",
        adapters={"motion": LayersConfig(layers="temporal", rank=8 if small else 32, share=2 / 7)},
        phases=(
            MotionPhase(
                name="motion",
                passes=(MotionPass(trains=("motion",), losses={"denoising": 1.0}),),
                learning_rates={"motion": 2e-3 if small else 5e-4},
                weight_decay=1e-2,
                fit=FitConfig(steps=150),
            ),
        ),
        plays=("motion",),
        frames=small_frames(preset, 16),
        sampling=sampling(preset, steps=30, guidance_scale=12.0),
        alignment=AlignmentConfig(),
    )
