"""SVGCustomization (Zhang et al., SIGGRAPH Asia 2023, arXiv 2309.12302): an exemplar's layers, changed by a prompt.

No code, steps, rates or weights of losses are published; every number here is ours.
"""

import dataclasses

from pcs_ext.image.adapters import CrossAttentionConfig, EmbeddingConfig, LowRankConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.sample import SampleConfig
from pcs_ext.svg.recipes.base import CustomizationRecipe
from pcs_ext.svg.vector.refine import Refinement

_TOKEN = "<subject>"
_CLASS_IMAGES = 32
_STYLE = {"toybox": "flat vector art of {subject}", "sd": "{subject}, minimal flat 2d vector"}


def svg_customization(noun: str, preset: Preset) -> CustomizationRecipe:
    """The paper's tuning of cross-attention only: keys, values and a new word, as in Custom Diffusion."""
    small = preset == "toybox"
    concept = Recipe(
        id="svg-customization",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=True,
            initializer=noun.split()[-1],
            templates=(_style(preset),),
        ),
        adapters={
            "word": EmbeddingConfig(placeholder=_TOKEN, initializer="random"),
            "keys_values": CrossAttentionConfig(),
        },
        phases=(
            Phase(
                name="joint",
                learning_rates={"word": 2e-3 if small else 2e-5, "keys_values": 5e-4 if small else 2e-5},
                weight_decay=1e-2,
                batch_size=4 if small else 2,
                objective=_objective(preset),
                fit=FitConfig(steps=300 if small else 500),
            ),
        ),
        augmentation=Augmentation(flip=False),
        class_images=_CLASS_IMAGES if small else 0,
        sampling=_sampling(preset),
    )
    return _with("svg-customization", concept, preset)


def svg_customization_lora(noun: str, preset: Preset) -> CustomizationRecipe:
    """The same with low-rank updates of the denoiser instead."""
    small = preset == "toybox"
    concept = Recipe(
        id="svg-customization-lora",
        concept=Concept(class_noun=noun, mode="rare", templates=(_style(preset),)),
        adapters={
            "denoiser": LowRankConfig(
                method="lora", rank=8, alpha=8.0, targets="all_linear_conv" if small else "attention"
            )
        },
        phases=(
            Phase(
                name="denoiser",
                learning_rates={"denoiser": 3e-3 if small else 1e-4},
                weight_decay=1e-4,
                batch_size=4 if small else 1,
                objective=_objective(preset),
                fit=FitConfig(steps=120 if small else 500, lr_schedule="cosine", warmup_steps=10),
            ),
        ),
        augmentation=Augmentation(flip=False),
        class_images=_CLASS_IMAGES if small else 0,
        sampling=_sampling(preset),
    )
    return _with("svg-customization-lora", concept, preset)


def _objective(preset: Preset) -> ObjectiveConfig:
    """Drawings of other things of the class, so that words about the exemplar still count. Tried on toybox alone."""
    return ObjectiveConfig(prior_loss_weight=1.0 if preset == "toybox" else 0.0)


def _sampling(preset: Preset) -> SampleConfig:
    """On toybox with less guidance than photos have: flat colours leave their range first."""
    found = SAMPLING[preset]
    return dataclasses.replace(found, guidance_scale=3.0) if preset == "toybox" else found


def _style(preset: Preset) -> str:
    return _STYLE["toybox" if preset == "toybox" else "sd"]


def _with(id: str, concept: Recipe, preset: Preset) -> CustomizationRecipe:
    """`toybox`: 64 pixels need no fine canvas, and a small base keeps a layout only when it is given one."""
    small = preset == "toybox"
    return CustomizationRecipe(
        id=id,
        concept=concept,
        prompt_template=_style(preset).replace("{subject}", "{prompt}"),
        layout_strength=0.8 if small else 1.0,
        refinement=Refinement(side=96, point_steps=150) if small else Refinement(side=224, point_steps=300),
        added_paths=3 if small else 6,
    )
