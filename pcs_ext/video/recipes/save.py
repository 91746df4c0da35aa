"""SAVE (Song et al. 2023, arXiv 2312.02503): a word for who moves, then a word by frame for the motion itself."""

import dataclasses

from pcs_ext.image.fit import FitConfig
from pcs_ext.video.recipes.base import MotionPass, MotionPhase, MotionRecipe, Preset
from pcs_ext.video.recipes.inflating import QUERIES, RATE, from_its_clip, inflating, whole
from pcs_ext.video.recipes.layers import PROTAGONIST, WordConfig

_WORDS = {
    "protagonist": WordConfig(placeholder="<protagonist>", stands_for=PROTAGONIST),
    "word": WordConfig(placeholder="<motion>", per_frame=True),
}


def save(preset: Preset = "sd") -> MotionRecipe:
    """The protagonist's word on single frames, whose prompts leave the motion out; then the motion's word, a vector for
    every frame, beside the weights that Tune-A-Video tunes, while it is held to where the protagonist moves.

    Prompts say `{protagonist}` and `{motion}`; to make clips the protagonist is any other word or a learned subject.

    Only the abstract was read. Its parts: the two words and their order, the inflation of the motion's word along
    time, and attention held to a pseudo optical flow made of attention maps. Ours: the form of that flow and its weight
    0.1, an inflated image model with Tune-A-Video's weights and rates as the base, words at 1e-3, 8 frames, 500 steps
    in each phase. `toybox`: words at 1e-2, weights at 1e-3, 300 steps in each phase.
    """
    small = preset == "toybox"
    tuned = {**QUERIES, "motion": whole("temporal_attention")}
    recipe = inflating(preset, id="save", adapters=tuned, inflation="sparse-causal", steps=500, frames=8)
    steps, word = recipe.steps, 1e-2 if small else 1e-3
    look = MotionPass(trains=("protagonist",), frames="one", losses={"denoising": 1.0})
    move = MotionPass(
        trains=("word", *tuned), beside=("protagonist",), losses={"denoising": 1.0, "motion_attention": 0.1}
    )
    return dataclasses.replace(
        from_its_clip(recipe),
        adapters={**_WORDS, **tuned},
        phases=(
            MotionPhase(
                name="protagonist", passes=(look,), learning_rates={"protagonist": word}, fit=FitConfig(steps=steps)
            ),
            MotionPhase(
                name="motion",
                passes=(move,),
                learning_rates={"word": word, **dict.fromkeys(tuned, RATE[preset])},
                weight_decay=1e-2,
                fit=FitConfig(steps=steps),
            ),
        ),
        plays=("protagonist", "word", *tuned),
    )
