"""PersonalVideo (Li et al. 2024, arXiv 2411.17048): an identity for the last steps of clips, by reward alone."""

from pcs_ext.image.adapters import LowRankConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes import Phase, Recipe
from pcs_ext.image.recipes.presets import SAMPLING
from pcs_ext.video.identity import IdentityConfig
from pcs_ext.video.recipes.base import Preset

IDENTITY = IdentityConfig()
"""How clips are made while learning."""
_DOING = ("stands", "walks", "runs", "jumps", "turns around", "dances", "rests", "looks up", "spins", "moves closer")
_WHERE = ("on the beach", "in the snow", "in a garden", "in a room", "on a street at night")
PROMPTS = tuple("a video of {subject} that " + f"{doing} {where}" for doing in _DOING for where in _WHERE)
"""Fifty prompts that say nothing of the photos; the paper lets a language model write as many."""
# A dot in front: not `temp_attentions` of a text-to-video UNet.
_ATTENTION = r"\.attentions\.\d+\.transformer_blocks\.\d+\.attn[12]\.(to_q|to_k|to_v|to_out\.0)$"


def personalvideo(noun: str, preset: Preset) -> Recipe:
    """A LoRA on both spatial attentions, there in the last quarter of the denoising; one photo is enough.

    Prompts keep the noun alone. The last quarter, the two rewards and fifty prompts are the paper's; rank 16, 1e-4, 500
    steps, how clips are sampled and how far gradients go back are ours.

    Differs from the paper: the encoder is any image encoder, CLIP unless told (`--image-encoder`), instead of one of
    faces, so subjects need not be persons; frames are scored by CLIP instead of HPSv2. `toybox`: rank 8, 1e-3, 200
    steps; not measured.
    """
    small = preset == "toybox"
    return Recipe(
        id="personalvideo",
        concept=Concept(class_noun=noun, mode="plain", templates=PROMPTS),
        adapters={"identity": LowRankConfig(rank=8 if small else 16, targets=(_ATTENTION,))},
        phases=(
            Phase(
                name="identity",
                learning_rates={"identity": 1e-3 if small else 1e-4},
                fit=FitConfig(steps=200 if small else 500),
            ),
        ),
        sampling=SAMPLING[preset],
    )
