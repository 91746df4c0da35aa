"""StyleDrop (Sohn et al. 2023, arXiv 2306.00983) on a diffusion model: one picture of a style in small adapters."""

from pcs_ext.image.adapters import SideNetworkConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.presets import SAMPLING


def styledrop(noun: str, preset: Preset) -> Recipe:
    """Bottlenecks behind all attentions, about 1000 steps, captions of content and style in ordinary words.

    A port and not a reproduction: the paper's base is a masked token model that is not public. The caption beside the
    picture says what it shows ("a house {subject}"); the style's words follow. The paper's second round is a second
    `learn` on the picture and ten of its results that a person chose. Width and rate are ours; `toybox`: not measured
    yet.

    Args:
        noun: the style in words: "in flat vector art style".
        preset: of the base.
    """
    small = preset == "toybox"
    return Recipe(
        id="styledrop",
        concept=Concept(class_noun=noun, mode="plain", templates=("a picture {subject}",), article=False),
        adapters={
            "bottlenecks": SideNetworkConfig(
                targets=(r"\.attn[12]$",), reads="output", activation="relu", width=16 if small else 32
            )
        },
        phases=(
            Phase(
                name="bottlenecks",
                learning_rates={"bottlenecks": 5e-3 if small else 1e-4},
                batch_size=4 if small else 1,
                fit=FitConfig(steps=300 if small else 1000),
            ),
        ),
        sampling=SAMPLING[preset],
    )
