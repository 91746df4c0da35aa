"""Animate-A-Story (He et al. 2023, arXiv 2307.06940), its characters: a word vector for every timestep, and LoRA."""

from pcs_ext.image.adapters import LowRankConfig, SpectrumConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.data import Augmentation
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes import Phase, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.video.recipes.base import Preset

_TOKEN = "<subject>"
TIMESTEPS = 1000
"""Rows of the table V in R^(T x d): one per timestep of Stable Diffusion's schedule, which toybox shares."""
# A dot in front: not `temp_attentions` of a text-to-video UNet.
_PROJECTIONS = r"\.attentions\.\d+\.transformer_blocks\.\d+\.attn[12]\.(to_q|to_k|to_v)$"


def animate_a_story(noun: str, preset: Preset) -> Recipe:
    """TimeInv: a table of a row per timestep, from the noun, and LoRA on queries, keys and values of both attentions.

    Rank 4, 1e-3 for the table, 1e-4 for the LoRA, batch 4 and 1,000 steps are ours: the paper's were not found. A row
    only learns from its own timestep, so fewer steps leave rows at the noun.

    Differs from the paper: its photos are still clips beside their depth, so that the depth explains why nothing moves;
    here they pass by the temporal layers, which explains it too. Storyboard, retrieval of clips and the depth encoder,
    which needs training on a large set, are left out. `toybox`: 1e-2 and 1e-3, 600 steps; not measured.
    """
    small = preset == "toybox"
    return Recipe(
        id="animate-a-story",
        concept=Concept(
            class_noun=noun,
            mode="learned",
            token=_TOKEN,
            with_noun=False,
            initializer=noun.split()[-1],
            templates=("a photo of {subject}",),
        ),
        adapters={
            "word": SpectrumConfig(placeholder=_TOKEN, per_layer=False, stages=TIMESTEPS, initializer=noun.split()[-1]),
            "character": LowRankConfig(rank=4, targets=(_PROJECTIONS,)),
        },
        phases=(
            Phase(
                name="character",
                learning_rates={"word": 1e-2 if small else 1e-3, "character": 1e-3 if small else 1e-4},
                batch_size=4,
                fit=FitConfig(steps=600 if small else 1000),
            ),
        ),
        augmentation=Augmentation(flip=False),
        sampling=SAMPLING[preset],
    )
