"""Cones (Liu et al. 2023, arXiv 2303.05125): a rare word and the few weights whose absence draws the subject."""

from pcs_ext.image.adapters import NeuronsConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING


def cones(noun: str, preset: Preset) -> Recipe:
    """DreamBooth's loss; its gradients by the presence of keys' and values' weights are summed, the lowest 0.5 % shut.

    Files hold integers alone; `pcs-ext merge` joins several subjects by the union of their neurons. Steps and batch,
    the share, and ranking where the paper thresholds are ours: no code is published and its numbers could not be read.
    The paper's few joint steps after the union are left out. `toybox`: not measured yet.
    """
    small = preset == "toybox"
    return Recipe(
        id="cones",
        concept=Concept(class_noun=noun, mode="rare", templates=("a photo of {subject}",)),
        adapters={"neurons": NeuronsConfig()},
        phases=(
            Phase(
                name="neurons",
                # Scores are only ranked, so the rate of plain descent has no effect but on rounding.
                learning_rates={"neurons": 1.0},
                batch_size=4 if small else 1,
                objective=ObjectiveConfig(prior_loss_weight=1.0),
                fit=FitConfig(steps=150 if small else 400, optimizer="sgd", betas=(0.0, 0.0), max_gradient_norm=None),
            ),
        ),
        class_images=64 if small else 200,
        sampling=SAMPLING[preset],
    )
