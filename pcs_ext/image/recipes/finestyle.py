"""FineStyle (Zhang et al., NeurIPS 2024) on a diffusion model: one picture of a style, and every thing in it."""

from pcs_ext.image.adapters import LowRankConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.masked_loss import MaskNormalisation
from pcs_ext.image.objectives import ObjectiveConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING


def finestyle(noun: str, preset: Preset) -> Recipe:
    """A small adapter on the keys and values of cross-attention, from one picture and squares around things in it.

    A port and not a reproduction: the paper's base is a masked token model that is not public. `NAME_mask1.png` and so
    on show the things; `NAME.txt` has a line for the picture and one for each ("a red house {subject}"). The paper
    finds them by itself, among words of its caption. Rank, rate and steps are ours. `toybox`: not measured yet.

    Args:
        noun: the style in words: "in flat vector art style".
        preset: of the base.
    """
    small = preset == "toybox"
    return Recipe(
        id="finestyle",
        concept=Concept(class_noun=noun, mode="plain", templates=("a picture {subject}",), article=False),
        adapters={"keys_values": LowRankConfig(rank=8 if small else 16, targets=(r"\.attn2\.(to_k|to_v)$",))},
        phases=(
            Phase(
                name="keys_values",
                learning_rates={"keys_values": 1e-3 if small else 1e-4},
                batch_size=4 if small else 1,
                objective=ObjectiveConfig(mask_normalisation=MaskNormalisation.PER_SAMPLE_MEAN),
                fit=FitConfig(steps=200 if small else 1000),
            ),
        ),
        concept_crops=True,
        sampling=SAMPLING[preset],
    )
