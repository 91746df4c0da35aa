"""StitchDiffusion's first half (Wang et al., WACV 2024, arXiv 2310.18840): a LoRA that learns how panoramas look."""

from pcs_ext.image.adapters import LowRankConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING


def stitchdiffusion(noun: str, preset: Preset) -> Recipe:
    """Panoramas twice as wide as high, each with a caption beside it; the noun is the trigger phrase before captions.

    The paper's phrase is "360-degree panoramic image"; rank and steps are not given there, those here are ours, and so
    are the random turns about the vertical axis.
    """
    small = preset == "toybox"
    targets = "all_linear_conv" if small else "attention"
    return Recipe(
        id="stitchdiffusion",
        concept=Concept(class_noun=noun, mode="plain", templates=("{subject}",)),
        adapters={"denoiser": LowRankConfig(method="lora", rank=16 if small else 8, alpha=8.0, targets=targets)},
        phases=(
            Phase(
                name="denoiser",
                learning_rates={"denoiser": 2e-3 if small else 1e-4},
                batch_size=4 if small else 1,
                fit=FitConfig(steps=600 if small else 3000, lr_schedule="cosine", warmup_steps=10),
            ),
        ),
        augmentation=Augmentation(aspect=2, roll=True),
        sampling=SAMPLING[preset],
    )
