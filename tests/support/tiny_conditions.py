"""Tiny systems that read condition maps, asked beside two prompts."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.maps import channels
from pcs_ext.image.reference.shown import Shown, Sight
from pcs_ext.image.types import Conditioning
from tests.support.tiny_reference import HIDDEN, WIDTH, at_random, drawn, tiny_system

PROMPTS = ["the dog", "a cat"]
NOISY, TIMES = drawn(2, 4, 8, 8, seed=9), torch.tensor([300, 20])


def system(name: str, sd: AbstractBackbone, eye: Path) -> Any:
    """A tiny one in use, every weight of it at random."""
    adapter, _ = tiny_system(name, sd, eye)
    at_random(adapter, sd)
    return adapter.eval().requires_grad_(False)


def pictures(adapter: Any, *, count: int = 1, seen: bool = True, maps: Tensor | None = None) -> Shown:
    """Random pictures, `count` beside each of two prompts."""
    shape = (WIDTH,) if adapter.sees == "embedding" else (2 if len(adapter.depths) > 1 else 1, 17, HIDDEN)
    sight = Sight(features=drawn(2, count, *shape, seed=3))
    return Shown(sight=sight, seen=torch.tensor([seen, seen]), maps=maps)


def random_maps(adapter: Any, *, seed: int = 0, rows: int = 2) -> Tensor:
    """Of its kinds, `rows c 32 32`."""
    return torch.rand(rows, channels(adapter.map_kinds), 32, 32, generator=torch.Generator().manual_seed(seed))


def told(sd: AbstractBackbone, adapter: Any, shown: Shown, prompts=PROMPTS, scale: float = 1.0) -> Conditioning:
    """Conditioning of two prompts beside pictures."""
    return adapter.conditioned(sd, sd.encode_prompt, prompts, shown, scale=scale)


@torch.no_grad()
def predicted(sd: AbstractBackbone, adapter: Any, shown: Shown, prompts=PROMPTS, scale: float = 1.0) -> Tensor:
    """What the base answers to that."""
    with adapter.inserted(sd, scale):
        return sd.predict(NOISY, TIMES, told(sd, adapter, shown, prompts, scale))
