"""Every way to make vector pictures with a diffusion model, listed by hand."""

from pcs_ext.svg.recipes.base import CustomizationRecipe, TextToVectorRecipe, VectorEntry
from pcs_ext.svg.recipes.svg_customization import svg_customization, svg_customization_lora
from pcs_ext.svg.recipes.vectorfusion import vectorfusion

__all__ = ["RECIPES", "CustomizationRecipe", "TextToVectorRecipe", "VectorEntry"]

_ENTRIES = (
    ("svg-customization", "an exemplar's layers, changed by a prompt; keys, values and a word learn",
     "2309.12302", "svgcustomization", svg_customization),
    ("svg-customization-lora", "the same; low-rank updates learn",
     "2309.12302", "svgcustomization", svg_customization_lora),
    ("vectorfusion", "a text as paths by score distillation, the baseline", "2211.11319", "", vectorfusion),
)  # fmt: skip
RECIPES: dict[str, VectorEntry] = {
    id: VectorEntry(id=id, summary=summary, paper=f"arXiv {paper}", system=system, build=build)
    for id, summary, paper, system, build in _ENTRIES
}
