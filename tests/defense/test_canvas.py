"""Views cover the photo, are differentiable, and the perturbation keeps the photo's own size."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcs_ext.defense.budget import Budget
from pcs_ext.defense.canvas import Canvas, Square, Views
from pcs_ext.defense.photos import OwnPhoto
from pcs_ext.errors import ConfigError


def canvas(height: int, width: int, channels: int = 3) -> Canvas:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (channels, height, width), generator=generator, dtype=torch.uint8)
    return Canvas(OwnPhoto(path=Path("a.png"), sha256="0" * 64, pixels=pixels), Budget())


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 300), width=st.integers(1, 300), zoom=st.floats(1, 6))
def test_squares_cover_every_pixel(height: int, width: int, zoom: float) -> None:
    covered = torch.zeros(height, width, dtype=torch.bool)
    for top, left, side in Views(zooms=(1.0, zoom)).squares(height, width):
        assert 0 <= top <= height - side
        assert 0 <= left <= width - side
        covered[top : top + side, left : left + side] = True
    assert covered.all()


def test_squares_by_hand() -> None:
    assert Views().squares(64, 64) == [Square(0, 0, 64)]
    # 64 x 100: two windows would do, the middle one is added
    assert Views().squares(64, 100) == [Square(0, 0, 64), Square(0, 18, 64), Square(0, 36, 64)]
    assert Views(center_only=True).squares(100, 64) == [Square(18, 0, 64)]


def test_a_view_at_the_training_size_is_the_photo_itself() -> None:
    photo = canvas(32, 32)
    view = photo.view(Square(0, 0, 32), 32, torch.full((3, 32, 32), 2.0))
    expected = ((photo.pixels.float() + 2) / 127.5 - 1).clamp(-1, 1)
    assert torch.allclose(view, expected)


@pytest.mark.parametrize(("height", "width", "channels"), [(90, 70, 3), (7, 300, 3), (1, 1, 3), (50, 60, 1)])
def test_gradients_reach_the_photos_own_pixels(height: int, width: int, channels: int) -> None:
    photo = canvas(height, width, channels)
    delta = torch.zeros(channels, height, width, requires_grad=True)
    total = torch.zeros(())
    for square in Views().squares(height, width):
        view = photo.view(square, 32, delta)
        assert view.shape == (3, 32, 32)
        assert view.abs().max() <= 1
        total = total + (view * view.detach()).sum()
    total.backward()
    assert delta.grad is not None
    assert delta.grad.shape == photo.pixels.shape
    assert (delta.grad != 0).float().mean() > 0.5


def test_gray_photos_stay_gray_and_profiles_shift_the_view() -> None:
    gray = canvas(32, 32, 1)
    view = gray.view(Square(0, 0, 32), 32, None)
    assert torch.equal(view[0], view[2])
    photo = canvas(32, 32)
    seen = photo.pixels.flip(0)
    shifted = Canvas(OwnPhoto(path=Path("a"), sha256="0", pixels=photo.pixels, srgb=seen), Budget())
    assert torch.allclose(shifted.view(Square(0, 0, 32), 32, None), seen.float() / 127.5 - 1)


def test_moves_stay_within_the_budget_and_the_range() -> None:
    photo = canvas(16, 16)
    for _ in range(3):
        photo.move(lambda rows: torch.full((3, 16, 16), 5.0)[:, rows])
    assert float(photo.delta.max()) == 8
    assert torch.equal(photo.result().int() - photo.pixels.int(), (255 - photo.pixels.int()).clamp(max=8))


def test_views_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="zooms of at least 1"):
        Views(zooms=(0.5,))


@pytest.mark.parametrize("norm", ["linf", "l2", "perceptual"])
def test_bands_of_rows_are_the_whole(norm: str) -> None:
    photo = canvas(600, 10)
    photo.budget = Budget(norm=norm, levels=4)  # type: ignore[arg-type]
    photo.room = photo.budget.room(photo.pixels)
    step = 9 * torch.randn(3, 600, 10, generator=torch.Generator().manual_seed(1))
    photo.move(lambda rows: step[:, rows])
    assert torch.allclose(photo.delta, photo.budget.project(step, photo.pixels, photo.room), atol=1e-5)
    expected = photo.pixels + photo.budget.quantise(photo.delta, photo.pixels)
    assert torch.equal(photo.result().int(), expected.int())
