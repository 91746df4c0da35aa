"""Every way to learn a subject that the core knows, listed by hand."""

from pcs_ext.image.recipes.base import Phase, PhotoContext, Preset, Recipe, RecipeEntry
from pcs_ext.image.recipes.break_a_scene import break_a_scene
from pcs_ext.image.recipes.c_lora import c_lora
from pcs_ext.image.recipes.catversion import catversion
from pcs_ext.image.recipes.celeb_basis import celeb_basis
from pcs_ext.image.recipes.clic import clic
from pcs_ext.image.recipes.comcat import comcat
from pcs_ext.image.recipes.compositional_inversion import compositional_inversion
from pcs_ext.image.recipes.concept_centric import concept_centric
from pcs_ext.image.recipes.cones import cones
from pcs_ext.image.recipes.cones_2 import cones_2
from pcs_ext.image.recipes.core import core
from pcs_ext.image.recipes.cross_initialization import cross_initialization
from pcs_ext.image.recipes.cusconcept import cusconcept
from pcs_ext.image.recipes.custom_diffusion import custom_diffusion
from pcs_ext.image.recipes.dci import dci
from pcs_ext.image.recipes.diffnat import diffnat
from pcs_ext.image.recipes.disenbooth import disenbooth
from pcs_ext.image.recipes.dreamartist import dreamartist
from pcs_ext.image.recipes.dreambooth import dreambooth
from pcs_ext.image.recipes.dreambooth_lora import dreambooth_lora
from pcs_ext.image.recipes.dreamdistribution import dreamdistribution
from pcs_ext.image.recipes.em_style import em_style
from pcs_ext.image.recipes.gradient_free_ti import gradient_free_ti
from pcs_ext.image.recipes.he_data import he_data
from pcs_ext.image.recipes.hiper import hiper
from pcs_ext.image.recipes.infusion import infusion
from pcs_ext.image.recipes.lego import lego
from pcs_ext.image.recipes.lycoris import loha, lokr
from pcs_ext.image.recipes.magictailor import magictailor
from pcs_ext.image.recipes.matte import matte
from pcs_ext.image.recipes.mc_ti import mc_ti
from pcs_ext.image.recipes.mix_of_show import mix_of_show
from pcs_ext.image.recipes.multibooth import multibooth
from pcs_ext.image.recipes.neti import neti
from pcs_ext.image.recipes.oft import coft, oft
from pcs_ext.image.recipes.p_plus import p_plus
from pcs_ext.image.recipes.pacgen import pacgen
from pcs_ext.image.recipes.pair_customization import pair_customization
from pcs_ext.image.recipes.perfusion import perfusion
from pcs_ext.image.recipes.persam import persam
from pcs_ext.image.recipes.prospect import prospect
from pcs_ext.image.recipes.prototypical_one_shot import prototypical_one_shot
from pcs_ext.image.recipes.reversion import reversion
from pcs_ext.image.recipes.stitchdiffusion import stitchdiffusion
from pcs_ext.image.recipes.style_friendly import style_friendly
from pcs_ext.image.recipes.styledrop import styledrop
from pcs_ext.image.recipes.svdiff import svdiff
from pcs_ext.image.recipes.textual_inversion import dvar, textual_inversion
from pcs_ext.image.recipes.unet_finetune import unet_finetune
from pcs_ext.image.recipes.vico import vico

__all__ = ["RECIPES", "Phase", "PhotoContext", "Preset", "Recipe", "RecipeEntry"]

_WEIGHTS = (
    (
        "dreambooth-lora",
        "rare word, LoRA on attention, prior preservation; the default",
        "2208.12242",
        "dreambooth",
        dreambooth_lora,
    ),
    ("dreambooth", "rare word, all denoiser weights, prior preservation", "2208.12242", "dreambooth", dreambooth),
    (
        "he-data-perspective",
        "dreambooth beside class images with detailed captions of one form",
        "2311.04315",
        "he-data-perspective",
        he_data,
    ),
    ("persam", "dreambooth that looks at masked subjects alone", "2305.03048", "persam", persam),
    (
        "custom-diffusion",
        "a new word and the cross-attention keys and values",
        "2212.04488",
        "custom-diffusion",
        custom_diffusion,
    ),
    ("dci", "custom-diffusion with words for what is particular to each photo", "2412.04831", "dci", dci),
    ("lycoris-loha", "rare word, Hadamard-product updates", "2309.14859", "lycoris", loha),
    ("lycoris-lokr", "rare word, Kronecker-product updates", "2309.14859", "lycoris", lokr),
    ("oft", "rare word, orthogonal rotations of the weights", "2306.07280", "oft", oft),
    ("coft", "oft whose rotations stay small", "2306.07280", "oft", coft),
    ("unet-finetune", "rare word, bottlenecks behind cross-attention", "2303.18181", "unet-finetune", unet_finetune),
    ("perfusion", "a new word with its class word's keys and learned values", "2305.01644", "perfusion", perfusion),
    ("svdiff", "rare word, shifts of the weights' singular values", "2303.11305", "svdiff", svdiff),
    (
        "disenbooth",
        "rare word and LoRA, what is particular to each photo kept apart",
        "2305.03374",
        "disenbooth",
        disenbooth,
    ),
    ("diffnat", "dreambooth-lora whose pictures keep natural statistics", "2311.09753", "diffnat", diffnat),
    ("comcat", "rare word, low-rank factors inside every attention head", "2305.17235", "comcat", comcat),
    (
        "prototypical-one-shot",
        "a word between photo and class, then it and a LoRA, from one masked photo",
        "2401.15708",
        "prototypical-one-shot",
        prototypical_one_shot,
    ),
    ("vico", "a new word, and a photo that is looked at while pictures are made", "2306.00971", "vico", vico),
    ("core", "a new word that leaves its neighbours' meaning, then all denoiser weights", "2408.15914", "core", core),
)
_WORDS = (
    ("textual-inversion", "one new word vector, nothing else", "2208.01618", "textual-inversion", textual_inversion),
    (
        "gradient-free-ti",
        "one new word vector, found by evolution without gradients",
        "2304.05265",
        "gradient-free-ti",
        gradient_free_ti,
    ),
    ("dvar", "textual inversion that stops by itself", "2302.04841", "dvar", dvar),
    ("p-plus", "a word vector per cross-attention layer", "2303.09522", "p-plus", p_plus),
    ("prospect", "a word vector per stage of denoising", "2305.16225", "prospect", prospect),
    ("neti", "a small network of timestep and layer gives the word vector", "2305.15391", "neti", neti),
    (
        "dreamartist",
        "a word and a word for the negative prompt, from one photo",
        "2211.11337",
        "dreamartist",
        dreamartist,
    ),
    ("hiper", "vectors behind the prompt's text, from one photo", "2303.08767", "hiper", hiper),
    (
        "cross-initialization",
        "two word vectors that start as the text encoder's output and stay near it",
        "2312.15905",
        "cross-initialization",
        cross_initialization,
    ),
    ("celeb-basis", "a word among the directions in which names differ", "2306.00926", "celeb-basis", celeb_basis),
    ("infusion", "vectors beside the noun's values, the base's maps kept", "2404.14007", "infusion", infusion),
    (
        "matte",
        "colour, style, layout and object of one picture, a word for each",
        "2311.11919",
        "matte",
        matte,
    ),
    (
        "catversion",
        "keys and values beside the words', inside the text encoder",
        "2311.14631",
        "catversion",
        catversion,
    ),
    (
        "dreamdistribution",
        "a word for a distribution of prompts, drawn from for every picture",
        "2312.14216",
        "dreamdistribution",
        dreamdistribution,
    ),
)
_SEVERAL = (
    ("cones", "rare word, few keys and values that are shut; unions draw several", "2303.05125", "cones", cones),
    (
        "cones-2",
        "a tuned text encoder, kept as a residual of the noun; goes with others",
        "2305.19327",
        "cones-2",
        cones_2,
    ),
    (
        "compositional-inversion",
        "a word held near its class word, so that prompts compose it",
        "2312.08048",
        "compositional-inversion",
        compositional_inversion,
    ),
    (
        "break-a-scene",
        "words, then all weights, from masks; several subjects of one photo",
        "2305.16311",
        "break-a-scene",
        break_a_scene,
    ),
    (
        "em-style",
        "several subjects of photos without masks: masks from attention and words, in turns",
        "2402.11487",
        "em-style",
        em_style,
    ),
    (
        "magictailor",
        "a subject and a part of another, each from its photos, at one pace; words and LoRA",
        "2410.13370",
        "magictailor",
        magictailor,
    ),
    ("mix-of-show", "layer-wise words and a LoRA, to be fused with others", "2305.18292", "mix-of-show", mix_of_show),
    (
        "multibooth",
        "a word of normal length and a LoRA on keys and values, for one pass of several",
        "2404.14239",
        "multibooth",
        multibooth,
    ),
    ("pacgen", "dreambooth on a subject that is moved about, to be drawn in a box", "2306.17154", "pacgen", pacgen),
)
_STYLES = (
    (
        "styledrop",
        "one picture in bottlenecks; a port from another kind of model",
        "2306.00983",
        "styledrop",
        styledrop,
    ),
    (
        "pair-customization",
        "what was done to one picture, used as guidance",
        "2405.01536",
        "pair-customization",
        pair_customization,
    ),
    ("style-friendly", "LoRA trained at the noise levels of style", "2411.14793", "style-friendly", style_friendly),
)
_OTHERS = (
    (
        "cusconcept",
        "one picture's attribute and object, each a mixture of known words",
        "2410.00398",
        "cusconcept",
        cusconcept,
    ),
    (
        "concept-centric",
        "a domain of many photos, drawn when nothing is asked; prompts then control it",
        "2312.08195",
        "concept-centric",
        concept_centric,
    ),
    ("clic", "a part or pattern of one photo, in its place on the thing that has it", "2311.17083", "clic", clic),
    ("lego", "an adjective or verb, told apart from what it is seen on", "2311.13833", "lego", lego),
    ("mc-ti", "a new word that also tells its class from others", "2410.22317", "mc-ti", mc_ti),
    ("reversion", "a word for a relation between two things", "2303.13495", "reversion", reversion),
    ("c-lora", "subjects one after another, earlier ones kept", "2304.06027", "continual-diffusion", c_lora),
    ("stitchdiffusion", "how 360 degree panoramas look", "2310.18840", "stitchdiffusion", stitchdiffusion),
)
_SCOPES = {
    "a subject, in weights": _WEIGHTS,
    "a subject, in words alone": _WORDS,
    "several subjects": _SEVERAL,
    "a style": _STYLES,
    "other": _OTHERS,
}
RECIPES: dict[str, RecipeEntry] = {
    id: RecipeEntry(id=id, summary=summary, paper=f"arXiv {paper}", system=system, scope=scope, build=build)
    for scope, entries in _SCOPES.items()
    for id, summary, paper, system, build in entries
}
