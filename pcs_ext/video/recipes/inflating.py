"""What recipes that inflate an image model and tune whole weights of it have in common."""

import dataclasses

from pcs_ext.image.fit import FitConfig
from pcs_ext.video.backbone import LayerKind
from pcs_ext.video.backbones.inflated import CrossFrame
from pcs_ext.video.recipes.base import LossName, MotionPass, MotionPhase, MotionRecipe, Preset
from pcs_ext.video.recipes.layers import LayersConfig
from pcs_ext.video.recipes.presets import sampling, small_frames

RATE: dict[Preset, float] = {"sd": 3e-5, "toybox": 1e-3}
"""Learning rate of whole weights: that of the released codes of Tune-A-Video, LAMP and Make-A-Protagonist."""


def whole(layers: LayerKind, *projections: str) -> LayersConfig:
    """The weights themselves of a kind of layers, or of some projections of it."""
    return LayersConfig(layers=layers, method="full", projections=projections)


QUERIES = {"self_queries": whole("spatial_self", "to_q"), "text_queries": whole("cross_attention", "to_q")}
"""Of both spatial attentions."""


def inflating(
    preset: Preset,
    *,
    id: str,
    adapters: dict[str, LayersConfig],
    inflation: CrossFrame,
    steps: int,
    frames: int,
    loss: LossName = "denoising",
) -> MotionRecipe:
    """One phase of one pass that trains all the adapters, AdamW with a decay of 1e-2; DDIM 50 steps, guidance 12.5.

    `toybox`: 8 frames, 1e-3, 300 steps.
    """
    names = tuple(adapters)
    return MotionRecipe(
        id=id,
        adapters={**adapters},
        phases=(
            MotionPhase(
                name="clips",
                passes=(MotionPass(trains=names, losses={loss: 1.0}),),
                learning_rates=dict.fromkeys(names, RATE[preset]),
                weight_decay=1e-2,
                fit=FitConfig(steps=300 if preset == "toybox" else steps),
            ),
        ),
        plays=names,
        inflation=inflation,
        frames=small_frames(preset, frames),
        sampling=sampling(preset, steps=50, guidance_scale=12.5),
    )


def from_its_clip(recipe: MotionRecipe) -> MotionRecipe:
    """The same recipe, whose clips start from nothing but a reference's inverted noise."""
    return dataclasses.replace(recipe, reference_share=1.0)
