"""PACGen (Li et al. 2023, arXiv 2306.17154): DreamBooth on photos in which the subject stands anywhere, in any size."""

import dataclasses

from pcs_ext.image.data import Augmentation
from pcs_ext.image.objectives import MaskNormalisation
from pcs_ext.image.recipes.base import Preset, Recipe
from pcs_ext.image.recipes.dreambooth import dreambooth


def pacgen(noun: str, preset: Preset) -> Recipe:
    """DreamBooth's hyperparameters; in every step the subject is cut out, resized and put somewhere else.

    The box at sampling is `image layout --method pacgen`. Differs from the paper: only the subject's cells count in the
    loss of photos, so that the gray around it is not learned; class images count whole. `toybox`: not measured yet.
    """
    recipe = dreambooth(noun, preset, id="pacgen")
    (phase,) = recipe.phases
    masked = dataclasses.replace(phase.objective, mask_normalisation=MaskNormalisation.PER_SAMPLE_MEAN)
    return dataclasses.replace(
        recipe,
        phases=(dataclasses.replace(phase, objective=masked),),
        augmentation=Augmentation(cutout=True),
        needs_masks=True,
    )
