"""DreamBooth with low-rank updates (arXiv 2208.12242 with 2106.09685): small files, quick, the default."""

from pcs_ext.image.adapters import LowRankConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING


def dreambooth_lora(noun: str, preset: Preset) -> Recipe:
    """LoRA on all attention projections of the denoiser, with prior preservation.

    `sd` and `sdxl`: rank 8, 1e-4, 800 steps; the usual scripts take rank 4 and 1e-4 (SDXL) or 5e-4 (SD), of which
    users report burnt results on few photos. `toybox`: not measured yet, and too weak there (docs/LOG.md).
    """
    return low_rank_recipe("dreambooth-lora", noun, preset, LowRankConfig(method="lora", rank=8, alpha=8.0))


def low_rank_recipe(id: str, noun: str, preset: Preset, adapter: LowRankConfig, *, rate: float = 1.0) -> Recipe:
    """The schedule that the low-rank family shares; `rate` scales the learning rate."""
    small = preset == "toybox"
    return Recipe(
        id=id,
        concept=Concept(class_noun=noun, mode="rare", templates=("a photo of {subject}",)),
        adapters={"denoiser": adapter},
        phases=(
            Phase(
                name="denoiser",
                learning_rates={"denoiser": rate * (2e-3 if small else 1e-4)},
                weight_decay=1e-4,
                batch_size=4 if small else 1,
                objective=ObjectiveConfig(prior_loss_weight=1.0),
                fit=FitConfig(steps=300 if small else 800, lr_schedule="cosine", warmup_steps=10),
            ),
        ),
        augmentation=Augmentation(flip=False),
        class_images=64 if small else 200,
        sampling=SAMPLING[preset],
    )
