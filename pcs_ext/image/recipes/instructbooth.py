"""InstructBooth (Chae et al. 2023, arXiv 2312.03011): DreamBooth, then reinforcement for doing what prompts say."""

import dataclasses

from pcs_ext.image.adapters import LowRankConfig
from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.dreambooth import dreambooth
from pcs_ext.image.recipes.presets import PHOTO_ENCODER
from pcs_ext.image.rewards.config import RewardConfig

DEEDS = (
    "a photo of {subject} on the beach",
    "a photo of {subject} in the snow",
    "a photo of {subject} on a wooden table",
    "a photo of {subject} in the city",
    "a photo of {subject} wearing a red hat",
    "a photo of {subject} wearing a blue scarf",
    "an oil painting of {subject}",
    "a pencil sketch of {subject}",
)
"""What is asked for and rewarded; ours, in place of the paper's prompts about deeds of living subjects."""


def instructbooth(noun: str, preset: Preset) -> Recipe:
    """DreamBooth; then a LoRA beside its weights that policy gradients teach to heed the prompt.

    Differs from the paper: the reward is a CLIP's cosine of picture and prompt, the noun in the subject's place,
    instead of ImageReward's; paths are fresh in every step, so that nothing is clipped. Rank, rates, steps and pictures
    are ours. `toybox`: its own CLIP; not measured yet.
    """
    recipe, small = dreambooth(noun, preset), preset == "toybox"
    (first,) = recipe.phases
    reward = RewardConfig(
        method="policy",
        text=1.0,
        prompts=DEEDS,
        encoder=PHOTO_ENCODER[preset][0],
        pictures=8,
        steps=20 if small else 50,
        guidance_scale=recipe.sampling.guidance_scale,
        visited=5,
        denoising=0.0,
    )
    second = Phase(
        name="policy",
        learning_rates={"policy": 1e-3 if small else 1e-4},
        batch_size=1,
        reward=reward,
        fit=FitConfig(steps=40 if small else 200),
    )
    policy = LowRankConfig(rank=4, alpha=4.0, targets="attention")
    return dataclasses.replace(
        recipe, id="instructbooth", adapters={**recipe.adapters, "policy": policy}, phases=(first, second)
    )
