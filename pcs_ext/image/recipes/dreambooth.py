"""DreamBooth (Ruiz et al. 2022, arXiv 2208.12242): a rare word and the class noun, all weights, prior preservation."""

from pcs_ext.image.adapters import FullConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING


def dreambooth(noun: str, preset: Preset, *, id: str = "dreambooth") -> Recipe:
    """Full fine-tuning of the denoiser.

    `sd`: 800 steps at 5e-6, 200 class images, prior weight 1 (the values the survey's comparison used). The paper's
    own model is not public; its text reports 1e-5 there and 5e-6 on Stable Diffusion. `toybox`: not measured yet.
    """
    small = preset == "toybox"
    return Recipe(
        id=id,
        concept=Concept(class_noun=noun, mode="rare", templates=("a photo of {subject}",)),
        adapters={"denoiser": FullConfig(components=("denoiser",))},
        phases=(
            Phase(
                name="denoiser",
                learning_rates={"denoiser": 1e-4 if small else 5e-6},
                weight_decay=1e-2,
                batch_size=4 if small else 1,
                objective=ObjectiveConfig(prior_loss_weight=1.0),
                fit=FitConfig(steps=200 if small else 800),
            ),
        ),
        augmentation=Augmentation(flip=False),
        class_images=64 if small else 200,
        sampling=SAMPLING[preset],
    )
