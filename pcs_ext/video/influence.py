"""Which blocks of a denoiser a prompt speaks through (CustomTTT, Bi et al. 2024, arXiv 2412.15646)."""

import dataclasses
import math
from collections.abc import Mapping

import torch
from torch import Tensor

from pcs_ext.image.types import Conditioning
from pcs_ext.runtime import generator_for
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.recipes.base import MotionRecipe
from pcs_ext.video.recipes.layers import LayersConfig

_LEVELS = (0.2, 0.5, 0.8)
"""Shares of the noise schedule at which the model is asked."""


def block_of(path: str) -> str:
    """`up_blocks.1` of `up_blocks.1.attentions.0...`; `mid_block` of its modules."""
    first, second, *_ = [*path.split("."), ""]
    return f"{first}.{second}" if second.isdigit() else first


def swapped_in(base: Conditioning, other: Conditioning, block: str) -> Conditioning:
    """Conditioning whose text is `other` in one block's cross-attentions and `base` in all others; a row each."""

    def states(timesteps: Tensor, path: str) -> tuple[Tensor, Tensor]:
        keys, values = (other if block_of(path) == block else base).at(timesteps[:1], path)
        count = len(timesteps)
        return keys.expand(count, -1, -1), values.expand(count, -1, -1)

    return Conditioning(states=base.states, pooled=base.pooled, time_ids=base.time_ids, per_layer=states)


@torch.no_grad()
def prompt_influence(backbone: AbstractVideoBackbone, latents: Tensor, prompt: str) -> dict[str, float]:
    """By block, how much the prediction changes when only that block reads the prompt instead of an empty one.

    Args:
        backbone: of any family with text cross-attention.
        latents: of a clip, `1 c f h w`.
        prompt: what it shows.

    Returns:
        Mean squared change over cells and noise levels, block by block in forward order. Same call, same numbers.
    """
    own, empty = backbone.encode_prompt([prompt]), backbone.encode_prompt([""])
    blocks = list(dict.fromkeys(block_of(path) for path in backbone.cross_attention_paths()))
    found = dict.fromkeys(blocks, 0.0)
    for level in _LEVELS:
        schedule = backbone.schedule
        timesteps = torch.tensor([int(level * schedule.num_train_timesteps)], device=latents.device)
        noise = torch.randn(latents.shape, generator=generator_for("influence", prompt, str(level))).to(latents)
        noisy = schedule.add_noise(latents, noise, timesteps)
        without = backbone.predict(noisy, timesteps, empty).float()
        for block in blocks:
            prediction = backbone.predict(noisy, timesteps, swapped_in(empty, own, block)).float()
            found[block] += float((prediction - without).square().mean()) / len(_LEVELS)
    return found


def most_influential(influence: Mapping[str, float], share: float) -> tuple[str, ...]:
    """The share of the blocks, at least one, that change the prediction most, in forward order."""
    count = max(1, math.ceil(share * len(influence)))
    best = set(sorted(influence, key=lambda block: -influence[block])[:count])
    return tuple(block for block in influence if block in best)


def with_chosen_blocks(
    recipe: MotionRecipe, backbone: AbstractVideoBackbone, latents: Tensor, prompt: str
) -> MotionRecipe:
    """The recipe with blocks chosen for the layers that ask for a share of them."""
    influence = prompt_influence(backbone, latents, prompt)
    adapters = {
        name: dataclasses.replace(layers, blocks=most_influential(influence, layers.share))
        if isinstance(layers, LayersConfig) and layers.share < 1 and not layers.blocks
        else layers
        for name, layers in recipe.adapters.items()
    }
    return dataclasses.replace(recipe, adapters=adapters)
