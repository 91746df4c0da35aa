"""OFT (Qiu et al. 2023, arXiv 2306.07280): block-diagonal rotations of the weights, which keep neurons' angles."""

from pcs_ext.image.adapters import LowRankConfig
from pcs_ext.image.recipes.base import Preset, Recipe
from pcs_ext.image.recipes.dreambooth_lora import low_rank_recipe, small_targets


def oft(noun: str, preset: Preset) -> Recipe:
    """Rotations of the attention projections. The released script takes 5e-5 with prior weight 1 and 200 images.

    `toybox`: dreambooth-lora's layers, steps and prior weight, at 5e-3, chosen on one subject (docs/LOG.md).
    """
    return _rotations("oft", noun, preset, None)


def coft(noun: str, preset: Preset) -> Recipe:
    """Constrained OFT: the rotations' generators stay in a ball of radius 6e-5, peft's default; the paper leaves it to
    the user."""
    return _rotations("coft", noun, preset, 6e-5)


def _rotations(id: str, noun: str, preset: Preset, radius: float | None) -> Recipe:
    adapter = LowRankConfig(method="oft", rank=8, oft_eps=radius, targets=small_targets(preset))
    return low_rank_recipe(id, noun, preset, adapter, rate=0.5, small_steps=120, small_rate=5e-3, small_prior=0.3)
