"""MotionCrafter (Zhang et al. 2023, arXiv 2312.05288): motion in temporal layers, looks held to a frozen model's."""

from pcs_ext.image.fit import FitConfig
from pcs_ext.video.recipes.base import MotionPass, MotionPhase, MotionRecipe, Preset
from pcs_ext.video.recipes.layers import LayersConfig
from pcs_ext.video.recipes.presets import sampling, small_frames


def motion_crafter(preset: Preset = "sd") -> MotionRecipe:
    """Two tracks: a LoRA on spatial layers takes up the clip's look, one on temporal layers its motion.

    The motion track learns the clip beside the other one. In a pass of its own, without it, it is held to the frozen
    model in the look of every frame (`appearance_statistics_loss`). It alone makes clips afterwards, beside any learned
    subject.

    No code of it was found and only its abstract was read: the tracks and the frozen branch are the paper's; the form
    of the loss, its weight 1 and rank 32, 5e-4, 150 steps and the sampling (MotionDirector's) are ours. Its enhancement
    of the appearance prior is left out: what it draws from the model was not found. `toybox`: rank 8, 8 frames, 2e-3;
    not measured.
    """
    small = preset == "toybox"
    rank, rate = (8, 2e-3) if small else (32, 5e-4)
    look = MotionPass(trains=("appearance",), frames="one", losses={"denoising": 1.0})
    move = MotionPass(trains=("motion",), beside=("appearance",), losses={"denoising": 1.0})
    keep = MotionPass(trains=("motion",), losses={"appearance_statistics": 1.0})
    return MotionRecipe(
        id="motioncrafter",
        adapters={
            "appearance": LayersConfig(layers="spatial", rank=rank),
            "motion": LayersConfig(layers="temporal", rank=rank),
        },
        phases=(
            MotionPhase(
                name="tracks",
                passes=(look, move, keep),
                learning_rates={"appearance": rate, "motion": rate},
                weight_decay=1e-2,
                fit=FitConfig(steps=150),
            ),
        ),
        plays=("motion",),
        frames=small_frames(preset, 16),
        sampling=sampling(preset, steps=30, guidance_scale=12.0),
    )
