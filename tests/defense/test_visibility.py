"""Visibility against closed forms."""

import math

import pytest
import torch

from pcs_ext.defense.ciede2000 import ciede2000, color_difference, to_lab
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


@pytest.mark.parametrize(
    ("first", "second", "distance"),
    [
        # Of the test data published with the formula: hues near the turn, grays, large lightness steps.
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0009), 7.1792),
        ((50.0, 2.4900, -0.0010), (50.0, -2.4900, 0.0011), 7.2195),
        ((50.0, 0.0, 0.0), (50.0, -1.0, 2.0), 2.3669),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((60.2574, -34.0099, 36.2677), (60.4626, -34.1751, 39.4387), 1.2644),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ],
)
def test_color_differences_are_the_published_ones(
    first: tuple[float, ...], second: tuple[float, ...], distance: float
) -> None:
    pair = [torch.tensor(lab, dtype=torch.float64) for lab in (first, second)]
    assert float(ciede2000(*pair)) == pytest.approx(distance, abs=1e-4)
    assert float(ciede2000(*reversed(pair))) == pytest.approx(distance, abs=1e-4)


def test_colors_are_taken_as_srgb() -> None:
    red = torch.tensor([255, 0, 0], dtype=torch.uint8).reshape(3, 1, 1)
    assert to_lab(red).flatten().tolist() == pytest.approx([53.24, 80.09, 67.20], abs=0.02)
    white, black = torch.full((1, 70, 2), 255, dtype=torch.uint8), torch.zeros((1, 70, 2), dtype=torch.uint8)
    assert color_difference(white, black) == pytest.approx(100, abs=0.01)
    assert color_difference(noise(), noise()) == 0


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
