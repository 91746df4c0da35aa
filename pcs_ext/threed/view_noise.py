"""Noise that is kept in all steps and turns with the view: a Gaussian random field over the camera's azimuth."""

import math

import torch
from torch import Tensor

from pcs_ext.runtime import generator_for


def harmonic_variances(harmonics: int) -> list[float]:
    """Shares v_0 ... v_K of the variance, one per multiple of the azimuth; they sum to 1.

    They are the Fourier coefficients of cos^(2K)(d / 2) = sum_k v_k cos(k d), which is how noises d apart then
    correlate: 1 for the same view, falling on both sides, 0 for opposite views (K > 0), 2^-K at a right angle.
    """
    middle, scale = math.comb(2 * harmonics, harmonics), 4**harmonics
    return [middle / scale] + [2 * math.comb(2 * harmonics, harmonics - k) / scale for k in range(1, harmonics + 1)]


def turning_noise(azimuth: Tensor, shape: tuple[int, ...], harmonics: int, seed: int) -> Tensor:
    """n(a) = sum_k sqrt(v_k) (A_k cos(k a) + B_k sin(k a)), `b *shape` float64 on the CPU, A and B unit normal.

    Every element has variance 1 at every azimuth; a full turn ends where it began.

    Args:
        azimuth: `b`, degrees.
        shape: of one view's noise.
        harmonics: K, 0 or more; 0 is one noise for all views.
        seed: of A and B.
    """
    generator = generator_for("kept noise", seed)
    angles = torch.deg2rad(azimuth.detach().cpu().double())
    noise = torch.zeros(len(angles), *shape, dtype=torch.float64)
    for k, variance in enumerate(harmonic_variances(harmonics)):
        waves = [(angles * k).cos(), (angles * k).sin()] if k else [torch.ones_like(angles)]
        for wave in waves:
            drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
            noise += variance**0.5 * wave.view(-1, *[1] * len(shape)) * drawn
    return noise
