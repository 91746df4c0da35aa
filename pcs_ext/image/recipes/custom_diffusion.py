"""Custom Diffusion (Kumari et al. 2022, arXiv 2212.04488): cross-attention keys and values, and a new word."""

from pcs_ext.image.adapters import CrossAttentionConfig, EmbeddingConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING

_TOKEN = "<subject>"


def custom_diffusion(noun: str, preset: Preset) -> Recipe:
    """K, V and the modifier word trained together beside 200 class images; 500 steps on one device, 1e-5 x batch 2."""
    small = preset == "toybox"
    return Recipe(
        id="custom-diffusion",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=True,
            initializer=noun.split()[-1],
            templates=("a photo of {subject}",),
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
                objective=ObjectiveConfig(prior_loss_weight=1.0),
                fit=FitConfig(steps=300 if small else 500),
            ),
        ),
        augmentation=Augmentation(flip=False, relocate=not small),
        class_images=64 if small else 200,
        sampling=SAMPLING[preset],
    )
