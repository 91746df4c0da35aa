"""LyCORIS (Yeh et al. 2023, arXiv 2309.14859): Hadamard (LoHa) and Kronecker (LoKr) products instead of LoRA's."""

from pcs_ext.image.adapters import LowRankConfig
from pcs_ext.image.recipes.base import Preset, Recipe
from pcs_ext.image.recipes.dreambooth_lora import low_rank_recipe


def loha(noun: str, preset: Preset) -> Recipe:
    """LoHa: the elementwise product of two rank-r matrices, rank up to r squared. Above rank 32 it may diverge."""
    return low_rank_recipe("lycoris-loha", noun, preset, LowRankConfig(method="loha", rank=8, alpha=4.0))


def lokr(noun: str, preset: Preset) -> Recipe:
    """LoKr: a Kronecker product with a low-rank second factor; the smallest files of the family."""
    return low_rank_recipe("lycoris-lokr", noun, preset, LowRankConfig(method="lokr", rank=8, alpha=8.0))
