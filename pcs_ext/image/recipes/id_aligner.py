"""ID-Aligner (Chen et al. 2024, arXiv 2404.15449): a low-rank subject that learns from its likeness, too."""

import dataclasses

from pcs_ext.image.fit import FitConfig
from pcs_ext.image.recipes.base import Phase, Preset, Recipe
from pcs_ext.image.recipes.dreambooth_lora import dreambooth_lora
from pcs_ext.image.recipes.presets import PHOTO_ENCODER
from pcs_ext.image.rewards.config import RewardConfig

PLACES = (
    "a photo of {subject}",
    "a photo of {subject} on the beach",
    "a photo of {subject} in the snow",
    "a photo of {subject} on the grass",
    "a photo of {subject} in a room",
    "a photo of {subject} in the city at night",
    "an oil painting of {subject}",
)
"""What rewarded pictures are asked for; ours."""


def id_aligner(noun: str, preset: Preset) -> Recipe:
    """dreambooth-lora, then the same photos beside the identity reward of what the model itself paints.

    The paper's text: 1 minus the cosine of generated and shown faces, fed back through a late prediction, for LoRAs
    beside their own loss. Differs from it: any image encoder in place of a face recogniser (a CLIP unless `reward`
    names another), and a cosine to the prompt in place of its aesthetic reward models, which are not public here.
    Steps, rates and weights are ours; one picture a step without guidance as in ReFL's released code, as recalled.
    `toybox`: its self-supervised encoder, guidance 3; not measured yet.
    """
    recipe, small = dreambooth_lora(noun, preset), preset == "toybox"
    (first,) = recipe.phases
    reward = RewardConfig(
        method="feedback",
        identity=0.5 if small else 1.0,
        text=0.5 if small else 1.0,
        prompts=PLACES,
        encoder=PHOTO_ENCODER[preset][0],
        identity_encoder="toybox/dino" if small else "",
        pictures=2 if small else 1,
        steps=20 if small else 30,
        guidance_scale=3.0 if small else 1.0,
        last=(0.0, 0.4),
    )
    second = Phase(
        name="feedback",
        learning_rates={key: rate / 5 for key, rate in first.learning_rates.items()},
        weight_decay=first.weight_decay,
        batch_size=first.batch_size,
        objective=first.objective,
        reward=reward,
        fit=FitConfig(steps=40 if small else 200),
    )
    return dataclasses.replace(recipe, id="id-aligner", phases=(first, second))
