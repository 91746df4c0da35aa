"""Wavelet filters against closed forms, bands by hand, kurtosis of known distributions."""

import math

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.image.wavelets import daubechies, detail_bands, kurtosis


def test_filters_are_daubechies() -> None:
    torch.testing.assert_close(daubechies(1), (math.sqrt(0.5),) * 2)
    root = math.sqrt(3)
    second = [(1 + root) / 4, (3 + root) / 4, (3 - root) / 4, (1 - root) / 4]
    torch.testing.assert_close(list(daubechies(2)), [tap / math.sqrt(2) for tap in second])
    for order in range(1, 11):
        taps = torch.tensor(daubechies(order), dtype=torch.float64)
        assert len(taps) == 2 * order
        for shift in range(order):
            product = (taps[2 * shift :] * taps[: len(taps) - 2 * shift]).sum()
            torch.testing.assert_close(product, torch.tensor(float(shift == 0), dtype=torch.float64), atol=1e-7, rtol=0)
        signs = 1 - 2 * (torch.arange(len(taps)) % 2)
        for power in range(order):  # the high-pass filter does not see polynomials below its order
            moment = (signs * taps.flip(0) * (torch.arange(len(taps)) / len(taps)) ** power).sum()
            assert abs(float(moment)) < 1e-6
    with pytest.raises(ConfigError, match="orders 1 to 10"):
        daubechies(11)


def test_haar_bands_by_hand() -> None:
    picture = torch.tensor([[[1.0, 2, 0, 0], [3, 7, 0, 4], [5, 5, 1, 1], [5, 5, 1, 1]]])
    first = detail_bands(picture, 1, 2)
    assert [tuple(band.shape) for band in first] == [(1, 2, 2)] * 3 + [(1, 1, 1)] * 3
    torch.testing.assert_close(first[0], torch.tensor([[[(1 - 2 + 3 - 7) / 2, -2.0], [0, 0]]]))
    torch.testing.assert_close(first[1], torch.tensor([[[(1 + 2 - 3 - 7) / 2, -2.0], [0, 0]]]))
    torch.testing.assert_close(first[2], torch.tensor([[[(1 - 2 - 3 + 7) / 2, 2.0], [0, 0]]]))
    coarse = torch.tensor([[6.5, 2.0], [10, 2]])
    torch.testing.assert_close(first[3].flatten(), (coarse[:, 0] - coarse[:, 1]).sum()[None] / 2)
    with pytest.raises(ConfigError, match="no further scale"):
        detail_bands(picture, 3, 1)


@pytest.mark.parametrize("order", [2, 4])
def test_smooth_pictures_have_no_detail_inside(order: int) -> None:
    across = torch.arange(32.0)
    ramp = (across[:, None] + 2 * across)[None]
    for band in detail_bands(ramp, order, 1):
        inside = band[:, order:-order, order:-order]
        assert (inside.abs() < 1e-3).all()


def test_kurtosis_of_known_distributions() -> None:
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(2, 300, 300, generator=generator)
    coin = torch.tensor([[1.0, -1.0] * 8, [5.0, 7.0] * 8])
    torch.testing.assert_close(kurtosis(normal), torch.full((2,), 3.0), atol=0.05, rtol=0)
    torch.testing.assert_close(kurtosis(coin), torch.ones(2))
    torch.testing.assert_close(
        kurtosis(torch.rand(1, 90000, generator=generator)), torch.tensor([1.8]), atol=0.02, rtol=0
    )
    rare = torch.zeros(1, 100)
    rare[0, 0] = 1  # a coin that falls on one side with p = 0.01: 1 / (p (1 - p)) - 3
    torch.testing.assert_close(kurtosis(rare), torch.tensor([1 / 0.0099 - 3]), rtol=1e-4, atol=0)
    assert kurtosis(torch.ones(1, 9)) == 0, "a flat band"
