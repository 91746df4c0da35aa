"""COTI (Yang et al. 2023, arXiv 2304.05265): a word learned from the best of many photos, more of them every round."""

import dataclasses

from pcs_ext.image.recipes.base import Preset, Recipe
from pcs_ext.image.recipes.textual_inversion import textual_inversion
from pcs_ext.image.selection import SelectConfig


def coti(noun: str, preset: Preset) -> Recipe:
    """Textual inversion in four rounds of five photos more each, out of a folder of any number.

    Photos that nobody looked at will do; those with a caption beside them are taken for vetted and are learned from the
    first round on. A photo's rank in quality and in likeness to the concept decides whether and how much it is learned
    from; which of both weighs more, and how fast is learned, follows from how the word's own pictures score. The folder
    takes the place of the paper's search of the web, a CLIP that of its trained scorers; steps are of one round, and
    every number but textual inversion's is ours. `toybox`: three rounds, sharpness as quality, its own CLIP; not
    measured yet.
    """
    small = preset == "toybox"
    recipe = textual_inversion(noun, preset, id="coti")
    select = (
        SelectConfig(rounds=3, first=3, add=3, quality="sharpness", encoder="toybox")
        if small
        else SelectConfig(encoder="openai/clip-vit-large-patch14")
    )
    return dataclasses.replace(recipe.with_steps(150 if small else 1000), select=select)
