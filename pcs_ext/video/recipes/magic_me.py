"""Magic-Me (Ma et al. 2024, arXiv 2402.09368): a subject in a few words, learned inside its mask, for clips."""

from pcs_ext.image.adapters import EmbeddingConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import MaskNormalisation, ObjectiveConfig
from pcs_ext.image.recipes import Phase, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.video.recipes.base import Preset
from pcs_ext.video.sample import ClipConfig

CLIP = ClipConfig(noise="correlated", share=0.1)
"""The 3D Gaussian noise prior, gamma 0.1: frames start alike, so that the subject stays itself."""
_TOKEN = "<subject>"


def magic_me(noun: str, preset: Preset) -> Recipe:
    """The ID module: an extended token embedding of 4 vectors, 1e-3, batch 4, 200 steps; squared error in the mask.

    Masks are `NAME_mask.png` beside the photos; where there is none, the base's own attention to the noun makes one
    (`video.subject_masks`).

    Differs from the paper: Grounding DINO and SAM, which make its masks, are not used. The mean over the mask is the
    loss, and the noun follows the new words; both are ours. The later stages, which refine faces and upscale tiles with
    an image upscaler, are left out. `toybox`: 1e-2, 300 steps.
    """
    small = preset == "toybox"
    return Recipe(
        id="magic-me",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=True,
            initializer=noun.split()[-1],
            templates=("a photo of {subject}",),
        ),
        adapters={
            # The same start for all four would keep them alike: their gradients are.
            "word": EmbeddingConfig(placeholder=_TOKEN, num_vectors=4, initializer=noun.split()[-1], init_noise=0.005)
        },
        phases=(
            Phase(
                name="word",
                learning_rates={"word/embedding": 1e-2 if small else 1e-3},
                batch_size=4,
                objective=ObjectiveConfig(mask_normalisation=MaskNormalisation.PER_SAMPLE_MEAN),
                fit=FitConfig(steps=300 if small else 200),
            ),
        ),
        augmentation=Augmentation(flip=False),
        sampling=SAMPLING[preset],
    )
