"""Mix-of-Show's ED-LoRA (Gu et al. 2023, arXiv 2305.18292): words that hold the subject, and a LoRA that helps them."""

from pcs_ext.image.adapters import LowRankConfig, SpectrumConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import MaskNormalisation, ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import AttentionConfig

_CONTEXT, _NOUN = "<subject>", "<subject-noun>"


def mix_of_show(noun: str, preset: Preset) -> Recipe:
    """Two layer-wise words (one random, one from the noun) at 1e-3, LoRA of rank 4 at 1e-5 (text) and 1e-4 (denoiser).

    Batch 2, rates falling linearly to zero, noise offset 0.01, loss and attention (weight 0.01) held to the masks.
    `pcs-ext merge` fuses several. The released code's alpha of 1 is not divided by the rank: 4 of 4 here. Differs from
    it: 1000 steps stand for its 500 repeats of four photos, and the words do not stop when their norm passes 0.55.
    `toybox`: not measured yet.
    """
    small = preset == "toybox"
    targets = "all_linear_conv" if small else "attention"
    lora = LowRankConfig(method="lora", rank=4, alpha=4.0, targets=targets)
    return Recipe(
        id="mix-of-show",
        concept=Concept(class_noun=noun, mode="learned", token=f"{_CONTEXT} {_NOUN}", with_noun=False),
        adapters={
            "context": SpectrumConfig(placeholder=_CONTEXT, init_std=0.013),
            "noun": SpectrumConfig(placeholder=_NOUN, initializer=noun.split()[-1]),
            "text": LowRankConfig(method="lora", rank=4, alpha=4.0, components=("text_encoder",)),
            "denoiser": lora,
        },
        phases=(
            Phase(
                name="joint",
                learning_rates={
                    "context": 1e-2 if small else 1e-3,
                    "noun": 1e-2 if small else 1e-3,
                    "text": 1e-4 if small else 1e-5,
                    "denoiser": 2e-3 if small else 1e-4,
                },
                batch_size=4 if small else 2,
                objective=ObjectiveConfig(
                    mask_normalisation=MaskNormalisation.PER_SAMPLE_AREA,
                    noise_offset=0.01,
                    terms=(AttentionConfig(form="outside", side=8 if small else 16),),
                ),
                fit=FitConfig(steps=300 if small else 1000, lr_schedule="linear"),
            ),
        ),
        needs_masks=True,
        sampling=SAMPLING[preset],
    )
