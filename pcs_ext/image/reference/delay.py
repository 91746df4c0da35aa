"""Conditioning that changes on the way: one at the first, noisiest timesteps, another afterwards."""

import dataclasses

import torch
from torch import Tensor

from pcs_ext.image.types import Conditioning


def delayed(first: Conditioning, then: Conditioning, share: float, timesteps: int) -> Conditioning:
    """Text states of `first` until the share of the way is gone, of `then` from there on.

    FastComposer (arXiv 2305.10431, section 3.4) calls it delayed subject conditioning: words alone lay out the picture.
    What else `then` has, size and pooled text, counts all the way.

    Args:
        first: of as many tokens as `then`.
        then: afterwards.
        share: of the noise levels, in [0, 1].
        timesteps: how many there are in all.
    """

    def states(at: Tensor, path: str) -> tuple[Tensor, Tensor]:
        early = (at >= (1 - share) * timesteps).to(then.states.device)[:, None, None]
        pairs = zip(first.at(at, path), then.at(at, path), strict=True)
        keys, values = (torch.where(early, one, other) for one, other in pairs)
        return keys, values

    return dataclasses.replace(then, per_layer=states)
