"""CLiC (Safaee et al. 2023, arXiv 2311.17083): a pattern or part, learned where it is on the thing that has it."""

from pcs_ext.image.adapters import CrossAttentionConfig, EmbeddingConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import MaskNormalisation, ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import AttentionConfig, RegionConfig

_TOKEN = "<part>"


def clic(noun: str, preset: Preset) -> Recipe:
    """A word and the cross-attention keys and values on one photo: 500 steps at 1e-5, three losses.

    The photo's denoising error counts half outside the part's mask; the word's attention is held to the mask, and the
    part alone is denoised under the word alone, each with weight 0.5. Numbers are the paper's (SD 1.4), as a summary of
    it gives them.

    Differs from the paper: captions of photos that have none are ours; maps are those of one size, divided by their
    maximum; the part is put onto other things by prompts and by `pcs-ext image swap`, not by the paper's own way of
    blending with guided attention. `toybox`: other rates, steps and map size; not measured yet.

    Args:
        noun: the thing that has the part: "chair". The mask beside the photo shows the part.
        preset: of the base.
    """
    small = preset == "toybox"
    return Recipe(
        id="clic",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=False,
            templates=(f"a photo of a {noun} with {{subject}}",),
            article=False,
        ),
        adapters={
            "word": EmbeddingConfig(placeholder=_TOKEN, initializer=noun.split()[-1]),
            "keys_values": CrossAttentionConfig(),
        },
        phases=(
            Phase(
                name="joint",
                learning_rates={"word": 2e-3 if small else 1e-5, "keys_values": 1e-4 if small else 1e-5},
                batch_size=4 if small else 1,
                objective=ObjectiveConfig(
                    mask_normalisation=MaskNormalisation.SOFT,
                    terms=(AttentionConfig(side=8 if small else 16, weight=0.5), RegionConfig()),
                ),
                fit=FitConfig(steps=200 if small else 500),
            ),
        ),
        needs_masks=True,
        sampling=SAMPLING[preset],
    )
