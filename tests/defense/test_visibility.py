"""Visibility against closed forms."""

import math

import pytest
import torch

from pcs_ext.defense.visibility import difference_strip, measure, psnr, ssim


def noise(height: int = 40, width: int = 50, channels: int = 3) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(20, 230, (channels, height, width), generator=generator, dtype=torch.uint8)


def test_psnr_by_hand() -> None:
    picture = noise()
    assert psnr(picture, picture) is None
    assert psnr(picture, picture + 5) == pytest.approx(10 * math.log10(255**2 / 25))


def test_ssim_by_hand() -> None:
    picture = noise()
    assert ssim(picture, picture) == pytest.approx(1, abs=1e-5)
    # Two flat pictures: only the luminance term is left.
    flat, lighter = torch.full((1, 30, 30), 100, dtype=torch.uint8), torch.full((1, 30, 30), 110, dtype=torch.uint8)
    c1 = (0.01 * 255) ** 2
    assert ssim(flat, lighter) == pytest.approx((2 * 100 * 110 + c1) / (100**2 + 110**2 + c1), abs=1e-4)


def test_ssim_of_a_tall_picture_does_not_depend_on_strips() -> None:
    tall = noise(1100, 20, 1)
    other = (tall.int() + noise(1100, 20, 1).int() % 7 - 3).to(torch.uint8)
    parts = ssim(tall, other)
    from pcs_ext.defense import visibility

    visibility._BLOCK, kept = 5000, visibility._BLOCK
    try:
        assert ssim(tall, other) == pytest.approx(parts, abs=1e-6)
    finally:
        visibility._BLOCK = kept


def test_measure_counts_levels() -> None:
    picture = noise()
    changed = picture.clone()
    changed[:, :20] += 4
    found = measure(picture, changed)
    assert found["mean_levels"] == pytest.approx(2.0)
    assert found["changed_share"] == pytest.approx(0.5)


@pytest.mark.parametrize("size", [(1, 1), (40, 50), (900, 500)])
def test_strips_show_three_panels(size: tuple[int, int]) -> None:
    picture = noise(*size)
    strip = difference_strip(picture, picture + 3)
    width = max(3 * min(size[1], round(384 * size[1] / max(384, *size))) + 16, 330)
    assert strip.width == (width if min(size) <= 384 else 3 * 384 + 16)
    difference = strip.getpixel((strip.width - 1, 18)) if size == (900, 500) else None
    assert difference is None or isinstance(difference, tuple)
