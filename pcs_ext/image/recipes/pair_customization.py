"""Pair Customization (Jones et al. 2024, arXiv 2405.01536): a style from one picture before and after it."""

from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import PairConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import PairTermConfig

_RARE = "sbu"
"""The released command's word for what the picture shows."""


def pair_customization(noun: str, preset: Preset) -> Recipe:
    """Rank 64 each, 1e-5 with 4 accumulated batches of one: 250 steps of content, 500 of content and style.

    Numbers are the released command's (SDXL at 512 pixels). Beside the picture lies `NAME_before.png`. `{subject}` is
    the style's phrase: "a photo of a cat {subject}".

    Differs from the released code: both passes of a step are one optimiser step; its sampler's other branches, which
    leave the style out of the first steps, are not there. `toybox`: other rank, rates and steps; not measured yet.

    Args:
        noun: what the picture shows, a comma, and the style: "dog, digital art style".
        preset: of the base.

    Raises:
        UsageError: the noun does not say what the picture shows.
    """
    small = preset == "toybox"
    content, _, style = (part.strip() for part in noun.partition(","))
    if not content:
        raise UsageError(
            f"pair-customization takes what the picture shows and the style; expected --noun like 'dog, digital art "
            f"style', got {noun!r}."
        )
    phrase = f"in {style or 'a new style'}"
    rate = 5e-3 if small else 1e-5

    def phase(name: str, steps: int, *groups: str) -> Phase:
        return Phase(
            name=name,
            learning_rates={f"pair/{group}": rate for group in groups},
            weight_decay=1e-4,
            batch_size=4 if small else 1,
            objective=ObjectiveConfig(denoising_weight=0.0, terms=(PairTermConfig(style=name == "style"),)),
            fit=FitConfig(steps=steps, gradient_accumulation=1 if small else 4),
        )

    return Recipe(
        id="pair-customization",
        concept=Concept(
            class_noun=phrase, mode="plain", templates=(f"A photo of a {_RARE} {content} {{subject}}",), article=False
        ),
        adapters={"pair": PairConfig(phrase=phrase, rank=16 if small else 64)},
        phases=(
            phase("content", 50 if small else 250, "content"),
            phase("style", 150 if small else 500, "content", "denoiser"),
        ),
        augmentation=Augmentation(flip=False),
        needs_before=True,
        sampling=SAMPLING[preset],
    )
