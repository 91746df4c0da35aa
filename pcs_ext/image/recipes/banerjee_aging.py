"""Identity-preserving aging (Banerjee et al. 2023, arXiv 2307.08585): DreamBooth beside people captioned by age."""

import dataclasses

from pcs_ext.image.likeness.config import IdentityConfig
from pcs_ext.image.recipes.base import Preset, Recipe
from pcs_ext.image.recipes.dreambooth import dreambooth

AGES = ("child", "teenager", "young adult", "middle-aged", "elderly", "old")
"""The paper's six groups, as words of captions."""
_COLORS = ("red", "blue", "green", "yellow", "black", "white")


def banerjee_aging(noun: str, preset: Preset) -> Recipe:
    """The rare word and all denoiser weights; class images of every age; a biometric and a contrastive loss.

    Prompts say "a photo of {subject} as an old person" in the words of the class images: "as old". What the rare word
    may not change is the meaning of the ages, which the class images with their captions hold. The paper takes a public
    set of 612 face pictures with age labels; here the base draws 200 of its own from those captions. Any image encoder
    stands in for the face recogniser: put yours into the JSON (`identity.encoder`). Recalled, not looked up: weight
    0.1 of the biometric loss; that of the contrast, and where pictures are clear enough to be looked at, are ours.

    `toybox` knows no ages: colours stand in their place ("as red"), and its self-supervised encoder judges; not
    measured yet.
    """
    small = preset == "toybox"
    words = _COLORS if small else AGES
    recipe = dreambooth(noun, preset, id="banerjee-aging")
    identity = IdentityConfig(
        encoder="toybox/dino" if small else "openai/clip-vit-large-patch14", weight=0.1, contrast=0.1
    )
    (phase,) = recipe.phases
    objective = dataclasses.replace(phase.objective, identity=identity)
    return dataclasses.replace(
        recipe,
        class_templates=tuple(age_prompt(word, small=small) for word in words),
        phases=(dataclasses.replace(phase, objective=objective),),
    )


def age_prompt(word: str, *, small: bool = False) -> str:
    """The prompt of the class images of an age, and their caption."""
    return f"a photo of a {word} {{subject}}" if small else f"a photo of {{subject}} as {word}"
