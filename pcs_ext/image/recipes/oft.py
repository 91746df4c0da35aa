"""OFT (Qiu et al. 2023, arXiv 2306.07280): block-diagonal rotations of the weights, which keep neurons' angles."""

from pcs_ext.image.adapters import LowRankConfig
from pcs_ext.image.recipes.base import Preset, Recipe
from pcs_ext.image.recipes.dreambooth_lora import low_rank_recipe


def oft(noun: str, preset: Preset) -> Recipe:
    """Rotations of the attention projections. The released script takes 5e-5 with prior weight 1 and 200 images."""
    return low_rank_recipe("oft", noun, preset, LowRankConfig(method="oft", rank=8), rate=0.5, small_rate=1e-3)


def coft(noun: str, preset: Preset) -> Recipe:
    """Constrained OFT: the rotations' generators stay in a ball of radius 6e-5, peft's default; the paper leaves it to
    the user."""
    adapter = LowRankConfig(method="oft", rank=8, oft_eps=6e-5)
    return low_rank_recipe("coft", noun, preset, adapter, rate=0.5, small_rate=1e-3)
