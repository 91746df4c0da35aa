"""GAL (Zhang et al. 2024, arXiv 2403.14987): DreamBooth in rounds, beside its own uncertain pictures."""

import dataclasses

from pcs_ext.image.active import ActiveConfig
from pcs_ext.image.recipes.base import Preset, Recipe
from pcs_ext.image.recipes.dreambooth import dreambooth

_PLACES = (
    "a photo of {subject} on the beach",
    "a photo of {subject} in the snow",
    "a photo of {subject} in the grass",
    "a photo of {subject} in the desert",
    "a photo of {subject} in a room",
    "a photo of {subject} on a table",
    "a photo of {subject} in a city at night",
    "a photo of {subject} under water",
    "a photo of {subject} in the mountains",
    "a photo of {subject} on top of a wooden floor",
    "a photo of a red {subject}",
    "an oil painting of {subject}",
    "a pencil sketch of {subject}",
    "a pixel art picture of {subject}",
)
"""Anchor directions; ours, in place of the released code's."""


def gal(noun: str, preset: Preset) -> Recipe:
    """Four rounds from the base on; each adds the best pictures of the three directions it is least sure of.

    800 steps a round at 5e-6, ten pictures per direction, balanced by openness 0.005, CLIP ViT-B/32: the released
    code's values for objects. Directions are ours. `--steps` is of one round. `toybox`: two rounds, four pictures of
    each of six directions, its own CLIP, other rates and steps; not measured yet.
    """
    small = preset == "toybox"
    active = ActiveConfig(
        rounds=2 if small else 4,
        directions=_PLACES[:6] if small else _PLACES,
        images=4 if small else 10,
        encoder="toybox" if small else "openai/clip-vit-base-patch32",
    )
    return dataclasses.replace(dreambooth(noun, preset, id="gal"), active=active)
