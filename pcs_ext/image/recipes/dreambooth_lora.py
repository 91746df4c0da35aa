"""DreamBooth with low-rank updates (arXiv 2208.12242 with 2106.09685): small files, quick, the default."""

from typing import Literal

from pcs_ext.image.adapters import LowRankConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING


def dreambooth_lora(noun: str, preset: Preset) -> Recipe:
    """LoRA on the denoiser, with prior preservation.

    `sd` and `sdxl`: all attention projections, rank 8, 1e-4, 800 steps; the usual scripts take rank 4 and 1e-4 (SDXL)
    or 5e-4 (SD), of which users report burnt results on few photos. `toybox`: all linear layers and convolutions, 5e-3,
    120 steps and a prior weight of 0.3, chosen on four subjects (docs/LOG.md).
    """
    adapter = LowRankConfig(method="lora", rank=8, alpha=8.0, targets=small_targets(preset))
    return low_rank_recipe("dreambooth-lora", noun, preset, adapter, small_steps=120, small_rate=5e-3, small_prior=0.3)


def small_targets(preset: Preset) -> Literal["attention", "all_linear_conv"]:
    """Attention's projections, as the papers train; on the small `toybox` all linear layers and convolutions."""
    return "all_linear_conv" if preset == "toybox" else "attention"


def low_rank_recipe(
    id: str,
    noun: str,
    preset: Preset,
    adapter: LowRankConfig,
    *,
    rate: float = 1.0,
    small_steps: int = 300,
    small_rate: float = 2e-3,
    small_prior: float = 1.0,
) -> Recipe:
    """The schedule that the low-rank family shares.

    Args:
        id: of the recipe.
        noun: class noun.
        preset: of the base.
        adapter: what trains.
        rate: factor on the learning rate for `sd` and `sdxl`.
        small_steps, small_rate, small_prior: steps, learning rate and prior weight for `toybox`.
    """
    small = preset == "toybox"
    return Recipe(
        id=id,
        concept=Concept(class_noun=noun, mode="rare", templates=("a photo of {subject}",)),
        adapters={"denoiser": adapter},
        phases=(
            Phase(
                name="denoiser",
                learning_rates={"denoiser": small_rate if small else rate * 1e-4},
                weight_decay=1e-4,
                batch_size=4 if small else 1,
                objective=ObjectiveConfig(prior_loss_weight=small_prior if small else 1.0),
                fit=FitConfig(steps=small_steps if small else 800, lr_schedule="cosine", warmup_steps=10),
            ),
        ),
        augmentation=Augmentation(flip=False),
        class_images=64 if small else 200,
        sampling=SAMPLING[preset],
    )
