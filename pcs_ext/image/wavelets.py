"""Daubechies wavelets of pictures (Daubechies 1988): what differs at each scale and in each direction."""

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.errors import ConfigError


@functools.cache
def daubechies(order: int) -> tuple[float, ...]:
    """The low-pass filter of a Daubechies wavelet: 2 x order numbers, extremal phase; 1 is Haar's.

    Sums to the root of 2, has unit length, and is orthogonal to its own shifts by even numbers.

    Raises:
        ConfigError: an order outside 1 to 10, beyond which rounding shows.
    """
    if not 1 <= order <= 10:
        raise ConfigError(f"Daubechies wavelets have orders 1 to 10 here, got {order}.")
    # |H|^2 is a polynomial in y = sin^2(w / 2) besides its zeros at z = -1; each of its roots is a pair z, 1 / z.
    powers = np.roots([math.comb(order - 1 + k, k) for k in reversed(range(order))])
    inside = [_inside(1 - 2 * y) for y in powers]
    taps = np.real(np.poly([-1.0] * order + inside))
    return tuple(float(tap) for tap in taps / taps.sum() * math.sqrt(2))


def _inside(half_sum: complex) -> complex:
    """The root of z^2 - 2 half_sum z + 1 inside the unit circle."""
    root = np.sqrt(half_sum**2 - 1 + 0j)
    return complex(min((half_sum + root, half_sum - root), key=abs))


def detail_bands(pictures: Tensor, order: int, levels: int) -> list[Tensor]:
    """Horizontal, vertical and diagonal detail at each scale, finest first: 3 x levels bands.

    Pictures are reflected at their borders, so that no edge appears there.

    Args:
        pictures: `b h w`, float; sides of more than 2 x order x 2^(levels - 1) cells.
        order: of the wavelet.
        levels: scales.

    Returns:
        bands `b h' w'`, sides halving from scale to scale. Differentiable.

    Raises:
        ConfigError: the pictures are too small for so many scales.
    """
    low = torch.tensor(daubechies(order), dtype=pictures.dtype, device=pictures.device)
    high = low.flip(0) * (1 - 2 * (torch.arange(len(low), device=low.device) % 2))
    filters = torch.stack([torch.outer(a, b) for a, b in ((low, low), (low, high), (high, low), (high, high))])
    around = len(low) - 2
    bands: list[Tensor] = []
    for _ in range(levels):
        if min(pictures.shape[-2:]) <= around + 1:
            raise ConfigError(
                f"pictures of {tuple(pictures.shape[-2:])} cells have no further scale of a wavelet of order {order}; "
                "ask for fewer levels or a lower order."
            )
        padded = F.pad(pictures[:, None], (around, around + 1) * 2, mode="reflect") if around else pictures[:, None]
        split = F.conv2d(padded, filters[:, None], stride=2)
        pictures, *detail = split.unbind(1)
        bands += detail
    return bands


def kurtosis(values: Tensor) -> Tensor:
    """Fourth central moment over the squared variance, `b ...` to `b`: 3 for normal numbers, 1 for a fair coin."""
    flat = values.flatten(1)
    centred = flat - flat.mean(1, keepdim=True)
    variance = centred.square().mean(1)
    return centred.pow(4).mean(1) / variance.clamp_min(1e-8).square()
