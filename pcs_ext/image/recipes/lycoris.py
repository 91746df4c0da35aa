"""LyCORIS (Yeh et al. 2023, arXiv 2309.14859): Hadamard (LoHa) and Kronecker (LoKr) products instead of LoRA's."""

from pcs_ext.image.adapters import LowRankConfig
from pcs_ext.image.recipes.base import Preset, Recipe
from pcs_ext.image.recipes.dreambooth_lora import low_rank_recipe, small_targets


def loha(noun: str, preset: Preset) -> Recipe:
    """LoHa: the elementwise product of two rank-r matrices, rank up to r squared. Above rank 32 it may diverge.

    `toybox`: dreambooth-lora's layers, steps and prior weight, at 2e-2, chosen on one subject (docs/LOG.md).
    """
    adapter = LowRankConfig(method="loha", rank=8, alpha=4.0, targets=small_targets(preset))
    return low_rank_recipe("lycoris-loha", noun, preset, adapter, small_steps=120, small_rate=2e-2, small_prior=0.3)


def lokr(noun: str, preset: Preset) -> Recipe:
    """LoKr: a Kronecker product with a low-rank second factor; the smallest files of the family.

    `toybox`: dreambooth-lora's layers, steps and prior weight, at 3e-2, chosen on one subject (docs/LOG.md).
    """
    adapter = LowRankConfig(method="lokr", rank=8, alpha=8.0, targets=small_targets(preset))
    return low_rank_recipe("lycoris-lokr", noun, preset, adapter, small_steps=120, small_rate=3e-2, small_prior=0.3)
