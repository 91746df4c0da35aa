"""Adapters in the UNet (Xiang et al. 2023, arXiv 2303.18181): DreamBooth with small bottlenecks as what trains."""

from pcs_ext.image.adapters import SideNetworkConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING


def unet_finetune(noun: str, preset: Preset) -> Recipe:
    """Bottlenecks behind the text cross-attentions, the place the paper found best.

    Width, rates and steps are not known and are ours; in the paper adapters of under 1 % of the weights suffice.
    `toybox`: not measured yet.
    """
    small = preset == "toybox"
    return Recipe(
        id="unet-finetune",
        concept=Concept(class_noun=noun, mode="rare", templates=("a photo of {subject}",)),
        adapters={
            "bottlenecks": SideNetworkConfig(
                targets=(r"\.attn2$",), reads="output", activation="relu", width=16 if small else 64
            )
        },
        phases=(
            Phase(
                name="bottlenecks",
                learning_rates={"bottlenecks": 5e-3 if small else 1e-4},
                batch_size=4 if small else 1,
                objective=ObjectiveConfig(prior_loss_weight=0.3 if small else 1.0),
                fit=FitConfig(steps=300 if small else 1000),
            ),
        ),
        augmentation=Augmentation(flip=False),
        class_images=64 if small else 200,
        sampling=SAMPLING[preset],
    )
