"""How several predictions become one. Pure functions of tensors."""

from collections.abc import Sequence

import torch
from torch import Tensor


def combine_guidance(negative: Tensor, positive: Tensor, guidance_scale: float) -> Tensor:
    """Classifier-free guidance (Ho and Salimans 2022): negative + scale * (positive - negative); 1 = off."""
    return negative + guidance_scale * (positive - negative)


def combine_terms(base: Tensor, terms: Sequence[tuple[float, Tensor, Tensor]]) -> Tensor:
    """base + sum of weight * (with - without) over `(weight, with, without)`: several conditions at once."""
    result = base
    for weight, present, absent in terms:
        result = result + weight * (present - absent)
    return result


def rescale_guidance(guided: Tensor, positive: Tensor, amount: float) -> Tensor:
    """Pull the guided prediction's spread back to the positive one's (Lin et al. 2023, arXiv 2305.08891, eq. 15-16).

    Args:
        guided, positive: predictions `b ...`.
        amount: 0 keeps `guided`, 1 takes the positive spread fully; the paper uses 0.7.
    """
    axes = tuple(range(1, guided.dim()))
    factor = positive.std(axes, keepdim=True) / guided.std(axes, keepdim=True).clamp_min(1e-8)
    return torch.lerp(guided, guided * factor, amount)
