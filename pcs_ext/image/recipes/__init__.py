"""Every way to learn a subject that the core knows, listed by hand."""

from pcs_ext.image.recipes.base import Phase, Preset, Recipe, RecipeEntry
from pcs_ext.image.recipes.c_lora import c_lora
from pcs_ext.image.recipes.custom_diffusion import custom_diffusion
from pcs_ext.image.recipes.dreambooth import dreambooth
from pcs_ext.image.recipes.dreambooth_lora import dreambooth_lora
from pcs_ext.image.recipes.lycoris import loha, lokr
from pcs_ext.image.recipes.mc_ti import mc_ti
from pcs_ext.image.recipes.oft import oft
from pcs_ext.image.recipes.stitchdiffusion import stitchdiffusion
from pcs_ext.image.recipes.textual_inversion import dvar, textual_inversion

__all__ = ["RECIPES", "Phase", "Preset", "Recipe", "RecipeEntry"]

_ENTRIES = (
    (
        "dreambooth-lora",
        "rare word, LoRA on attention, prior preservation; the default",
        "2208.12242",
        "dreambooth",
        dreambooth_lora,
    ),
    ("dreambooth", "rare word, all denoiser weights, prior preservation", "2208.12242", "dreambooth", dreambooth),
    ("textual-inversion", "one new word vector, nothing else", "2208.01618", "textual-inversion", textual_inversion),
    (
        "custom-diffusion",
        "a new word and the cross-attention keys and values",
        "2212.04488",
        "custom-diffusion",
        custom_diffusion,
    ),
    ("lycoris-loha", "rare word, Hadamard-product updates", "2309.14859", "lycoris", loha),
    ("lycoris-lokr", "rare word, Kronecker-product updates", "2309.14859", "lycoris", lokr),
    ("oft", "rare word, orthogonal rotations of the weights", "2306.07280", "oft", oft),
    (
        "c-lora",
        "subjects one after another, earlier ones kept",
        "2304.06027",
        "continual-diffusion",
        c_lora,
    ),
    ("stitchdiffusion", "how 360 degree panoramas look", "2310.18840", "stitchdiffusion", stitchdiffusion),
    ("mc-ti", "a new word that also tells its class from others", "2410.22317", "mc-ti", mc_ti),
    ("dvar", "textual inversion that stops by itself", "2302.04841", "dvar", dvar),
)
RECIPES: dict[str, RecipeEntry] = {
    id: RecipeEntry(id=id, summary=summary, paper=f"arXiv {paper}", system=system, build=build)
    for id, summary, paper, system, build in _ENTRIES
}
