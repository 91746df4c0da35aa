"""Fits recover known distributions; what disturbs pictures is farther away than other undisturbed ones."""

import pytest
import torch
from torch import Tensor

from pcs_ext.defense.naturalness import NaturalModel, _asymmetric_fit, patch_features
from pcs_ext.defense.transforms import gaussian_blur, jpeg


def scenes(count: int, seed: int, side: int = 64) -> Tensor:
    """Pictures with the falling spectrum of natural ones, `n 3 s s` in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    spectrum = torch.fft.rfft2(torch.randn(count, 3, side, side, generator=generator))
    rows, columns = torch.fft.fftfreq(side)[:, None], torch.fft.rfftfreq(side)
    falling = torch.fft.irfft2(spectrum / (rows.square() + columns.square()).sqrt().clamp_min(1 / side), s=(side, side))
    return (0.4 * falling / falling.std()).clamp(-1, 1)


def test_fits_recover_known_shapes() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(1, 200_000, generator=generator, dtype=torch.float64)
    alpha, mean, left, right = (float(value) for value in _asymmetric_fit(3 * normal))
    assert (alpha, left, right) == (pytest.approx(2, abs=0.05), pytest.approx(3, abs=0.05), pytest.approx(3, abs=0.05))
    assert mean == pytest.approx(0, abs=0.05)
    laplace = normal.sign() * torch.empty_like(normal).exponential_(generator=generator)
    assert float(_asymmetric_fit(laplace)[0]) == pytest.approx(1, abs=0.03)
    lopsided = torch.where(normal < 0, normal, 2 * normal)
    _, mean, left, right = (float(value) for value in _asymmetric_fit(lopsided))
    assert (left, right) == (pytest.approx(1, abs=0.02), pytest.approx(2, abs=0.02))
    # Halves of a normal of deviations 1 and 2: the fitted mean is (2 - 1) sqrt(2 / pi).
    assert mean == pytest.approx((2 / torch.pi) ** 0.5, abs=0.02)


def test_disturbed_pictures_are_farther_away() -> None:
    model, others = NaturalModel.of(scenes(24, 0)), scenes(12, 1)
    noise = torch.randn(others.shape, generator=torch.Generator().manual_seed(2))
    same = model.distance(NaturalModel.of(others))
    noisy = [model.distance(NaturalModel.of((others + level * noise).clamp(-1, 1))) for level in (0.06, 0.15, 0.4)]
    assert same < noisy[0] < noisy[1] < noisy[2]
    for changed in (gaussian_blur(others, 1.5, 9), jpeg(others, 20)):
        assert model.distance(NaturalModel.of(changed)) > 2 * same
    assert model.distance(model) == pytest.approx(0, abs=1e-6)


def test_flat_and_tiny_pictures_have_features() -> None:
    flat = torch.full((2, 3, 32, 32), 0.3)
    assert torch.isfinite(patch_features(flat)).all()
    assert patch_features(scenes(2, 0, 33)).shape == (32, 36)
    with pytest.raises(AssertionError, match="too small"):
        patch_features(torch.zeros(1, 3, 16, 16))
