"""PerSAM's help for DreamBooth (Zhang et al. 2023, arXiv 2305.03048, section 3.4): the background does not count."""

import dataclasses

from pcs_ext.image.objectives import MaskNormalisation
from pcs_ext.image.recipes.base import Preset, Recipe
from pcs_ext.image.recipes.dreambooth import dreambooth


def persam(noun: str, preset: Preset) -> Recipe:
    """A small change of DreamBooth: the photos' loss is limited to their masks, class images count whole.

    Differs from the paper, whose subject is a segmenter that makes the masks from one example: masks come with the
    photos here, from whatever made them.
    """
    recipe = dreambooth(noun, preset, id="persam")
    (phase,) = recipe.phases
    masked = dataclasses.replace(phase.objective, mask_normalisation=MaskNormalisation.PER_SAMPLE_MEAN)
    return dataclasses.replace(recipe, phases=(dataclasses.replace(phase, objective=masked),), needs_masks=True)
