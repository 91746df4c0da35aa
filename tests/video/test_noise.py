"""Starting noise has the covariance it says."""

import pytest
import torch

from pcs_ext.errors import UsageError
from pcs_ext.video.noise import blended_noise, correlated_noise, shared_noise, with_common

SHAPE = (4, 4, 6, 64, 64)


def covariance(noise: torch.Tensor) -> torch.Tensor:
    frames = noise.transpose(0, 2).flatten(1)
    return frames @ frames.T / frames.shape[1]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("correlation", [0.0, 0.1, 0.7, 1.0])
def test_correlated_noise_has_the_covariance_of_the_prior(correlation: float) -> None:
    distance = (torch.arange(6)[:, None] - torch.arange(6)).abs()
    found = covariance(correlated_noise(SHAPE, correlation, generator()))
    assert (found - torch.tensor(correlation) ** distance).abs().max() < 0.02


def test_the_process_equals_the_cholesky_factor() -> None:
    """The same fresh noise through the factor of the covariance gives the same frames."""
    distance = (torch.arange(6)[:, None] - torch.arange(6)).abs()
    factor = torch.linalg.cholesky(torch.tensor(0.3) ** distance)
    fresh = torch.randn(SHAPE, generator=generator(3))
    expected = torch.einsum("nm,bcmhw->bcnhw", factor, fresh)
    torch.testing.assert_close(correlated_noise(SHAPE, 0.3, generator(3)), expected, atol=1e-5, rtol=1e-5)


def test_shared_noise_keeps_unit_deviation_unless_told() -> None:
    assert float(shared_noise(SHAPE, 0.2, generator()).std()) == pytest.approx(1.0, abs=0.01)
    as_released = shared_noise(SHAPE, 0.2, generator(), unit_variance=False)
    assert float(as_released.std()) == pytest.approx(0.8246, abs=0.01)
    assert float(covariance(as_released)[0, 1]) == pytest.approx(0.04, abs=0.01)


def test_common_noise_joins_what_was_drawn() -> None:
    own = torch.randn(SHAPE, generator=generator(1))
    assert with_common(own, 0.0, generator()) is own
    mixed = covariance(with_common(own, 0.5, generator()))
    assert float(mixed.diagonal().mean()) == pytest.approx(1.0, abs=0.02)
    assert float(mixed[0, 3]) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_blended_noise_keeps_unit_deviation(share: float) -> None:
    inverted = torch.randn(SHAPE, generator=generator(1))
    blended = blended_noise(inverted, torch.randn(SHAPE, generator=generator(2)), share)
    assert float(blended.std()) == pytest.approx(1.0, abs=0.01)
    assert float((blended * inverted).mean()) == pytest.approx(share**0.5, abs=0.01)


def test_values_out_of_range_are_named() -> None:
    with pytest.raises(UsageError, match=r"correlation must be in \[0, 1\], got 1.5"):
        correlated_noise(SHAPE, 1.5, generator())
    with pytest.raises(UsageError, match="share must be in"):
        shared_noise(SHAPE, -0.1, generator())
    with pytest.raises(UsageError, match="share must be in"):
        blended_noise(torch.zeros(SHAPE), torch.zeros(SHAPE), 2.0)
