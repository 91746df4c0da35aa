"""DiffNat (Roy et al. 2023, arXiv 2311.09753): DreamBooth whose pictures keep the statistics of natural ones."""

import dataclasses

from pcs_ext.image.recipes.base import Preset, Recipe
from pcs_ext.image.recipes.dreambooth_lora import dreambooth_lora
from pcs_ext.image.terms import KurtosisConfig


def diffnat(noun: str, preset: Preset) -> Recipe:
    """dreambooth-lora with the kurtosis concentration loss on the clean pictures its predictions imply.

    The paper adds that loss to several personalisation methods, DreamBooth among them; here it joins the low-rank
    form. Wavelets, scales and weight are ours. `toybox`: not measured yet; two scales, since its pictures are small.
    """
    recipe = dreambooth_lora(noun, preset)
    term = KurtosisConfig(levels=2) if preset == "toybox" else KurtosisConfig()
    phases = tuple(
        dataclasses.replace(phase, objective=dataclasses.replace(phase.objective, terms=(term,)))
        for phase in recipe.phases
    )
    return dataclasses.replace(recipe, id="diffnat", phases=phases)
