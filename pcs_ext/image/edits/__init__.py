"""Every way to edit or guide a picture that trains nothing itself, listed by hand."""

from pcs_ext.image.edits.base import EditEntry
from pcs_ext.image.edits.concept_centric import concept_centric_guidance
from pcs_ext.image.edits.cones_2 import cones_2_layout
from pcs_ext.image.edits.dci import dci
from pcs_ext.image.edits.diptych import diptych
from pcs_ext.image.edits.freecontrol import freecontrol
from pcs_ext.image.edits.freecure import freecure
from pcs_ext.image.edits.insert import tigic
from pcs_ext.image.edits.layout import layout_control
from pcs_ext.image.edits.mc2 import mc2
from pcs_ext.image.edits.multibooth import multibooth_regions
from pcs_ext.image.edits.omg import omg
from pcs_ext.image.edits.pacgen import pacgen_regions
from pcs_ext.image.edits.photoswap import photoswap
from pcs_ext.image.edits.portrait_diffusion import portrait_diffusion
from pcs_ext.image.edits.sag import sag
from pcs_ext.image.edits.style_aligned import style_aligned
from pcs_ext.image.edits.swapanything import swapanything
from pcs_ext.image.edits.try_on import try_on

__all__ = ["EDITS", "EditEntry"]

_ENTRIES = (
    ("photoswap", "another subject in a photo: attention of the photo for the first steps",
     "2305.18286", "photoswap", "image swap", photoswap),
    ("swapanything", "the same within a mask alone, in a crop around it",
     "2404.05717", "swapanything", "image swap", swapanything),
    ("layout-control", "words of a prompt in boxes, by gradients on where they look",
     "2304.03373", "layout-control", "image layout", layout_control),
    ("cones-2", "subjects that are words in boxes, by a bias on where they are looked for",
     "2305.19327", "cones-2", "image together", cones_2_layout),
    ("omg", "subjects of any kind where the base draws their nouns, each by its own weights",
     "2403.10983", "omg", "image together", omg),
    ("multibooth", "subjects whose keys and values act in their boxes, all in one pass",
     "2404.14239", "multibooth", "image together", multibooth_regions),
    ("mc2", "subjects of any kind over one latent, their words led to look at different places",
     "2404.05268", "mc2", "image together", mc2),
    ("pacgen", "a subject's weights in its box, the base outside",
     "2306.17154", "pacgen", "image layout", pacgen_regions),
    ("dci", "a subject in a scene that the base lays out: branches integrated early by attention",
     "2412.04831", "dci", "image heed", dci),
    ("freecure", "words that a subject's weights forgot, from the base's self-attention in their masks",
     "2411.15277", "freecure", "image heed", freecure),
    ("concept-centric", "a concept and what is asked of it, each with a guidance of its own",
     "2312.08195", "concept-centric", "image heed", concept_centric_guidance),
    ("style-aligned", "pictures in the style of the first one, or of a given one, by shared attention",
     "2312.02133", "stylealigned", "image style", style_aligned),
    ("sag", "pictures led to a reference's style or content by gradients of a clean estimate of several steps",
     "2312.12030", "sag", "image style", sag),
    ("portrait-diffusion", "a picture in the manner of another one, by attention to its features",
     "2312.02212", "portrait-diffusion", "image restyle", portrait_diffusion),
    ("tigic", "a subject of another picture placed into a scene and changed by a prompt",
     "2403.12658", "tigic", "image insert", tigic),
    ("freecontrol", "the structure of a picture for any prompt, by components of self-attention",
     "2312.07536", "freecontrol", "image follow", freecontrol),
    ("diptych", "a subject drawn beside its photo, in the empty panel of a picture of two",
     "2411.15466", "diptych-prompting", "image diptych", diptych),
    ("try-on", "a garment fitted to a person's outline, then painted with attention to it; in the spirit of the system",
     "2312.15480", "", "image try-on", try_on),  # in the spirit of PE-VITON only: trained modules are `reference`'s
)  # fmt: skip
EDITS: dict[str, EditEntry] = {
    id: EditEntry(id=id, summary=summary, paper=f"arXiv {paper}", system=system, command=command, build=build)
    for id, summary, paper, system, command, build in _ENTRIES
}
