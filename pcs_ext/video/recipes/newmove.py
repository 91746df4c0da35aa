"""NewMove (Materzynska et al. 2023, arXiv 2312.04966, "Customizing motion"): a new word for a motion of few clips."""

from pcs_ext.image.fit import FitConfig
from pcs_ext.image.timesteps import TimestepSampling
from pcs_ext.video.recipes.base import MotionPass, MotionPhase, MotionRecipe, Preset
from pcs_ext.video.recipes.layers import LayersConfig, WordConfig
from pcs_ext.video.recipes.presets import sampling, small_frames


def newmove(preset: Preset = "sd") -> MotionRecipe:
    """All temporal weights, keys and values of the text attention, and a word; squared error, mostly on coarse noise.

    Beside the motion's clips it learns from real clips of the same kind of actors that do something else (`--prior`):
    what the model knows of them stays.

    The parts are the paper's; learning rates, steps, the weight 1 of the prior clips and the cubic form of the
    timesteps are recalled or ours, because they could not be looked up. The feed-forward of temporal layers trains too.
    `toybox`: 8 frames, 1e-3, 300 steps; not measured.
    """
    small = preset == "toybox"
    names, kept = ("motion", "text", "word"), ("motion", "text")
    rate = 1e-3 if small else 1e-5
    own = MotionPass(trains=names, losses={"denoising": 1.0})
    prior = MotionPass(trains=kept, clips="prior", losses={"denoising": 1.0})
    return MotionRecipe(
        id="newmove",
        adapters={
            "motion": LayersConfig(layers="temporal_weights", method="full"),
            "text": LayersConfig(layers="cross_attention", method="full", projections=("to_k", "to_v")),
            "word": WordConfig(placeholder="<motion>"),
        },
        phases=(
            MotionPhase(
                name="motion",
                passes=(own, prior),
                learning_rates={"motion": rate, "text": rate, "word": 1e-2 if small else 1e-3},
                weight_decay=1e-2,
                timesteps=TimestepSampling(kind="cubic"),
                fit=FitConfig(steps=300 if small else 1500),
            ),
        ),
        plays=names,
        frames=small_frames(preset, 16),
        sampling=sampling(preset, steps=50, guidance_scale=9.0),
    )
