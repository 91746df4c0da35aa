"""Every way to learn a subject that the core knows, listed by hand."""

from pcs_ext.image.recipes.adi import adi
from pcs_ext.image.recipes.banerjee_aging import banerjee_aging
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
from pcs_ext.image.recipes.coti import coti
from pcs_ext.image.recipes.cross_initialization import cross_initialization
from pcs_ext.image.recipes.cusconcept import cusconcept
from pcs_ext.image.recipes.custom_diffusion import custom_diffusion
from pcs_ext.image.recipes.dci import dci
from pcs_ext.image.recipes.democaricature import democaricature
from pcs_ext.image.recipes.detex import detex
from pcs_ext.image.recipes.diffnat import diffnat
from pcs_ext.image.recipes.disenbooth import disenbooth
from pcs_ext.image.recipes.disendreamer import disendreamer
from pcs_ext.image.recipes.dreamartist import dreamartist
from pcs_ext.image.recipes.dreambooth import dreambooth
from pcs_ext.image.recipes.dreambooth_lora import dreambooth_lora
from pcs_ext.image.recipes.dreambooth_pp import dreambooth_pp
from pcs_ext.image.recipes.dreamdistribution import dreamdistribution
from pcs_ext.image.recipes.em_style import em_style
from pcs_ext.image.recipes.finestyle import finestyle
from pcs_ext.image.recipes.gal import gal
from pcs_ext.image.recipes.gradient_free_ti import gradient_free_ti
from pcs_ext.image.recipes.he_data import he_data
from pcs_ext.image.recipes.hifi_tuner import hifi_tuner
from pcs_ext.image.recipes.hiper import hiper
from pcs_ext.image.recipes.id_aligner import id_aligner
from pcs_ext.image.recipes.infusion import infusion
from pcs_ext.image.recipes.instructbooth import instructbooth
from pcs_ext.image.recipes.inv_reversion import inv_reversion
from pcs_ext.image.recipes.lego import lego
from pcs_ext.image.recipes.lycoris import loha, lokr
from pcs_ext.image.recipes.magicapture import magicapture
from pcs_ext.image.recipes.magictailor import magictailor
from pcs_ext.image.recipes.matsuda import matsuda
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
from pcs_ext.image.recipes.personamagic import personamagic
from pcs_ext.image.recipes.prospect import prospect
from pcs_ext.image.recipes.prototypical_one_shot import prototypical_one_shot
from pcs_ext.image.recipes.reversion import reversion
from pcs_ext.image.recipes.stitchdiffusion import stitchdiffusion
from pcs_ext.image.recipes.style_friendly import style_friendly
from pcs_ext.image.recipes.styleboost import styleboost
from pcs_ext.image.recipes.styledrop import styledrop
from pcs_ext.image.recipes.styleforge import styleforge
from pcs_ext.image.recipes.svdiff import svdiff
from pcs_ext.image.recipes.textual_inversion import dvar, textual_inversion
from pcs_ext.image.recipes.unet_finetune import unet_finetune
from pcs_ext.image.recipes.vico import vico
from pcs_ext.image.recipes.viewpoint_control import viewpoint_control

__all__ = ["RECIPES", "Phase", "PhotoContext", "Preset", "Recipe", "RecipeEntry"]

_WEIGHTS = (
    (
        "dreambooth-lora",
        "rare word, LoRA on attention, prior preservation; the default",
        "arXiv 2208.12242",
        dreambooth_lora,
    ),
    ("dreambooth", "rare word, all denoiser weights, prior preservation", "arXiv 2208.12242", dreambooth),
    (
        "he-data-perspective",
        "dreambooth beside class images with detailed captions of one form",
        "arXiv 2311.04315",
        he_data,
    ),
    ("persam", "dreambooth that looks at masked subjects alone", "arXiv 2305.03048", persam),
    ("dreambooth-plus-plus", "dreambooth on several photos packed into one picture", "ACM MM 2024", dreambooth_pp),
    ("id-aligner", "dreambooth-lora that its own pictures' likeness teaches, too", "arXiv 2404.15449", id_aligner),
    ("instructbooth", "dreambooth, then reinforcement for heeding the prompt", "arXiv 2312.03011", instructbooth),
    ("gal", "dreambooth in rounds, beside pictures it was unsure of", "arXiv 2403.14987", gal),
    ("custom-diffusion", "a new word and the cross-attention keys and values", "arXiv 2212.04488", custom_diffusion),
    ("dci", "custom-diffusion with words for what is particular to each photo", "arXiv 2412.04831", dci),
    ("detex", "a word, and words made of each photo for its pose and background", "arXiv 2312.11826", detex),
    ("lycoris-loha", "rare word, Hadamard-product updates", "arXiv 2309.14859", loha),
    ("lycoris-lokr", "rare word, Kronecker-product updates", "arXiv 2309.14859", lokr),
    ("oft", "rare word, orthogonal rotations of the weights", "arXiv 2306.07280", oft),
    ("coft", "oft whose rotations stay small", "arXiv 2306.07280", coft),
    ("unet-finetune", "rare word, bottlenecks behind cross-attention", "arXiv 2303.18181", unet_finetune),
    ("perfusion", "a new word with its class word's keys and learned values", "arXiv 2305.01644", perfusion),
    ("svdiff", "rare word, shifts of the weights' singular values", "arXiv 2303.11305", svdiff),
    ("disenbooth", "rare word and LoRA, what is particular to each photo kept apart", "arXiv 2305.03374", disenbooth),
    (
        "disendreamer",
        "disenbooth whose photos' vectors explain their photos alone, too",
        "IEEE TCSVT 2024",
        disendreamer,
    ),
    ("diffnat", "dreambooth-lora whose pictures keep natural statistics", "arXiv 2311.09753", diffnat),
    ("comcat", "rare word, low-rank factors inside every attention head", "arXiv 2305.17235", comcat),
    (
        "prototypical-one-shot",
        "a word between photo and class, then it and a LoRA, from one masked photo",
        "arXiv 2401.15708",
        prototypical_one_shot,
    ),
    ("vico", "a new word, and a photo that is looked at while pictures are made", "arXiv 2306.00971", vico),
    ("core", "a new word that leaves its neighbours' meaning, then all denoiser weights", "arXiv 2408.15914", core),
    (
        "hifi-tuner",
        "a word per step of denoising, then all denoiser weights, held to where they were",
        "arXiv 2312.00079",
        hifi_tuner,
    ),
    (
        "banerjee-aging",
        "dreambooth beside people of all ages, held to who is seen",
        "arXiv 2307.08585",
        banerjee_aging,
    ),
    ("democaricature", "a word and an explicit edit of its values, from one photo", "arXiv 2312.04364", democaricature),
)
_WORDS = (
    ("textual-inversion", "one new word vector, nothing else", "arXiv 2208.01618", textual_inversion),
    (
        "gradient-free-ti",
        "one new word vector, found by evolution without gradients",
        "arXiv 2304.05818",
        gradient_free_ti,
    ),
    ("dvar", "textual inversion that stops by itself", "arXiv 2302.04841", dvar),
    ("p-plus", "a word vector per cross-attention layer", "arXiv 2303.09522", p_plus),
    ("prospect", "a word vector per stage of denoising", "arXiv 2305.16225", prospect),
    ("neti", "a small network of timestep and layer gives the word vector", "arXiv 2305.15391", neti),
    (
        "personamagic",
        "words that act in one stage of denoising, in balance with the rest of the text",
        "arXiv 2412.15674",
        personamagic,
    ),
    ("dreamartist", "a word and a word for the negative prompt, from one photo", "arXiv 2211.11337", dreamartist),
    ("hiper", "vectors behind the prompt's text, from one photo", "arXiv 2303.08767", hiper),
    (
        "cross-initialization",
        "two word vectors that start as the text encoder's output and stay near it",
        "arXiv 2312.15905",
        cross_initialization,
    ),
    ("celeb-basis", "a word among the directions in which names differ", "arXiv 2306.00926", celeb_basis),
    ("infusion", "vectors beside the noun's values, the base's maps kept", "arXiv 2404.14007", infusion),
    ("matte", "colour, style, layout and object of one picture, a word for each", "arXiv 2311.11919", matte),
    ("catversion", "keys and values beside the words', inside the text encoder", "arXiv 2311.14631", catversion),
    (
        "dreamdistribution",
        "a word for a distribution of prompts, drawn from for every picture",
        "arXiv 2312.14216",
        dreamdistribution,
    ),
    ("coti", "textual inversion from the best of many photos, more of them every round", "arXiv 2304.05265", coti),
)
_SEVERAL = (
    ("cones", "rare word, few keys and values that are shut; unions draw several", "arXiv 2303.05125", cones),
    ("cones-2", "a tuned text encoder, kept as a residual of the noun; goes with others", "arXiv 2305.19327", cones_2),
    (
        "compositional-inversion",
        "a word held near its class word, so that prompts compose it",
        "arXiv 2312.08048",
        compositional_inversion,
    ),
    (
        "break-a-scene",
        "words, then all weights, from masks; several subjects of one photo",
        "arXiv 2305.16311",
        break_a_scene,
    ),
    (
        "em-style",
        "several subjects of photos without masks: masks from attention and words, in turns",
        "arXiv 2402.11487",
        em_style,
    ),
    (
        "magictailor",
        "a subject and a part of another, each from its photos, at one pace; words and LoRA",
        "arXiv 2410.13370",
        magictailor,
    ),
    ("mix-of-show", "layer-wise words and a LoRA, to be fused with others", "arXiv 2305.18292", mix_of_show),
    (
        "multibooth",
        "a word of normal length and a LoRA on keys and values, for one pass of several",
        "arXiv 2404.14239",
        multibooth,
    ),
    ("magicapture", "a person and a style of portraits, and one in the other", "arXiv 2309.06895", magicapture),
    ("pacgen", "dreambooth on a subject that is moved about, to be drawn in a box", "arXiv 2306.17154", pacgen),
    ("matsuda", "subjects one after another, each drawn in its region of a segmentation map", "ICASSP 2024", matsuda),
)
_STYLES = (
    ("styledrop", "one picture in bottlenecks; a port from another kind of model", "arXiv 2306.00983", styledrop),
    (
        "finestyle",
        "a style's picture and every thing in it; a port from another kind of model",
        "NeurIPS 2024",
        finestyle,
    ),
    ("pair-customization", "what was done to one picture, used as guidance", "arXiv 2405.01536", pair_customization),
    ("style-friendly", "LoRA trained at the noise levels of style", "arXiv 2411.14793", style_friendly),
    ("styleboost", "dreambooth for a style, beside auxiliary pictures of people", "ICTC 2023", styleboost),
    ("styleforge", "a style's people and its scenes, a word for each", "arXiv 2404.05256", styleforge),
)
_OTHERS = (
    ("cusconcept", "one picture's attribute and object, each a mixture of known words", "arXiv 2410.00398", cusconcept),
    (
        "concept-centric",
        "a domain of many photos, drawn when nothing is asked; prompts then control it",
        "arXiv 2312.08195",
        concept_centric,
    ),
    ("clic", "a part or pattern of one photo, in its place on the thing that has it", "arXiv 2311.17083", clic),
    ("lego", "an adjective or verb, told apart from what it is seen on", "arXiv 2311.13833", lego),
    ("mc-ti", "a new word that also tells its class from others", "arXiv 2410.22317", mc_ti),
    ("reversion", "a word for a relation between two things", "arXiv 2303.13495", reversion),
    (
        "inv-reversion",
        "a word for a relation, and one for it read from its other end",
        "doi 10.3390/app14083338",
        inv_reversion,
    ),
    ("adi", "a word for an action, blind to who does it and where", "arXiv 2311.15841", adi),
    ("c-lora", "subjects one after another, earlier ones kept", "arXiv 2304.06027", c_lora),
    (
        "viewpoint-control",
        "a word, and fields that show the subject from a given camera; posed photos",
        "arXiv 2404.12333",
        viewpoint_control,
    ),
    ("stitchdiffusion", "how 360 degree panoramas look", "arXiv 2310.18840", stitchdiffusion),
)
_SCOPES = {
    "a subject, in weights": _WEIGHTS,
    "a subject, in words alone": _WORDS,
    "several subjects": _SEVERAL,
    "a style": _STYLES,
    "other": _OTHERS,
}
_SYSTEMS: dict[str, str] = {
    "dreambooth-lora": "dreambooth",
    "lycoris-loha": "lycoris",
    "lycoris-lokr": "lycoris",
    "coft": "oft",
    "c-lora": "continual-diffusion",
}
"""Rows of the survey of recipes that are not named like theirs."""
RECIPES: dict[str, RecipeEntry] = {
    id: RecipeEntry(id=id, summary=summary, paper=paper, system=_SYSTEMS.get(id) or id, scope=scope, build=build)
    for scope, entries in _SCOPES.items()
    for id, summary, paper, build in entries
}
