"""A data perspective on DreamBooth (He et al. 2023, arXiv 2311.04315): class images of detailed captions, one form."""

import dataclasses
import itertools

from pcs_ext.image.recipes.base import Preset, Recipe
from pcs_ext.image.recipes.dreambooth import dreambooth

_LOOKS = ("red", "blue", "small", "large", "old", "shiny", "dark", "bright")
_PLACES = (
    "on the beach",
    "in the snow",
    "in the grass",
    "in a room",
    "on a table",
    "in a city",
    "in the mountains",
    "in the night",
)
_VIEWS = ("seen from the front", "seen from the side", "seen from above", "close up")
FORM = "a photo of a {look} {{subject}}, {place}, {view}"
"""What, what kind, where, and from where. Captions beside the photos should have the same form."""


def he_data(noun: str, preset: Preset) -> Recipe:
    """A small change of DreamBooth: what its class images show. Its training is as it is there.

    64 prompts, every look and place with a view. Differs from the paper: its list of words is not known and ours is
    shorter; photos are captioned by whoever writes `NAME.txt` beside them ("a photo of a {subject}, on a table, close
    up").
    """
    pairs = itertools.product(_LOOKS, _PLACES)
    prompts = tuple(
        FORM.format(look=look, place=place, view=_VIEWS[index % len(_VIEWS)])
        for index, (look, place) in enumerate(pairs)
    )
    recipe = dreambooth(noun, preset, id="he-data-perspective")
    return dataclasses.replace(recipe, class_templates=prompts)
