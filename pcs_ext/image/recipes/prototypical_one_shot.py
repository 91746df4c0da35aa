"""One-shot tuning with a prototypical word (Lu et al. 2024, arXiv 2401.15708): word first, then low-rank weights."""

from pcs_ext.image.adapters import EmbeddingConfig, LowRankConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import MaskNormalisation, ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.image.terms import AnchorConfig

_TOKEN = "<subject>"


def prototypical_one_shot(noun: str, preset: Preset) -> Recipe:
    """A word put between photo, subject and class in CLIP; then it and a LoRA, the denoising error inside the mask.

    While both train, the word's row is held to its class word's. The prototype is the paper's, in the form a summary of
    it gives; the form of what holds the word to its class is not known here, and rates, steps, rank and weight are
    ours.
    `sd` names ViT-L/14, the text tower of SD 1.x and of SDXL's first encoder. `toybox`: not measured yet.
    """
    small = preset == "toybox"
    word = noun.split()[-1]
    encoder = "toybox" if small else "openai/clip-vit-large-patch14"
    return Recipe(
        id="prototypical-one-shot",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=False,
            initializer=word,
            templates=("a photo of {subject}",),
        ),
        adapters={
            "word": EmbeddingConfig(placeholder=_TOKEN, initializer=word),
            "lora": LowRankConfig(rank=8 if small else 4),
        },
        phases=(
            Phase(
                name="prototype",
                learning_rates={"word/embedding": 5e-3},
                objective=ObjectiveConfig(denoising_weight=0.0, prototype_weight=1.0, prototype_encoder=encoder),
                fit=FitConfig(steps=100),
            ),
            Phase(
                name="joint",
                learning_rates={"word/embedding": 2e-3 if small else 5e-4, "lora": 1e-3 if small else 1e-4},
                batch_size=4 if small else 1,
                objective=ObjectiveConfig(
                    mask_normalisation=MaskNormalisation.PER_SAMPLE_MEAN,
                    terms=(AnchorConfig(words=(word,), weight=1e-2),),
                ),
                fit=FitConfig(steps=200 if small else 500),
            ),
        ),
        augmentation=Augmentation(flip=False),
        needs_masks=True,
        sampling=SAMPLING[preset],
    )
