"""Edges: thin, where brightness changes, and hanging together."""

import pytest
import torch

from pcs_ext.image.edges import canny


def picture(levels: torch.Tensor) -> torch.Tensor:
    """`1 3 h w` in [-1, 1] of grey levels `h w` in [0, 1]."""
    return (2 * levels - 1).expand(1, 3, -1, -1)


@pytest.mark.parametrize("turned", [False, True])
def test_a_step_is_one_line_where_it_is(turned: bool) -> None:
    levels = torch.zeros(20, 24)
    levels[:, 10:] = 1
    image = picture(levels)
    found = canny(image.transpose(2, 3) if turned else image)[0, 0]
    found = found.T if turned else found
    assert found.sum(1).tolist() == [1.0] * 20
    assert found[:, 9:11].sum() == 20


def test_a_slope_is_a_line_too_and_flat_or_faint_is_none() -> None:
    rows, columns = torch.meshgrid(torch.arange(24), torch.arange(24), indexing="ij")
    slanted = canny(picture((rows + columns > 23).float()))[0, 0]
    # Pixels on both sides of an exact diagonal are equally steep, and none lies before the other across it.
    assert slanted.sum(1).min() >= 1
    assert (slanted.nonzero().sum(1) - 23.5).abs().max() == 0.5
    assert canny(picture(torch.full((16, 16), 0.7))).sum() == 0
    faint = torch.zeros(16, 16)
    faint[:, 8:] = 0.05
    assert canny(picture(faint)).sum() == 0


def test_what_is_weak_stays_where_it_hangs_on_something_strong() -> None:
    """A step that fades from 0.5 to 0.15, and another one of 0.15 alone. A step of 1 blurred by 1 pixel rises by 0.62
    from one side of its neighbour to the other, so the first begins above 0.15 and both end between 0.05 and 0.15."""
    levels = torch.zeros(32, 40)
    levels[:, 10:20] = torch.linspace(0.5, 0.15, 32)[:, None]
    levels[:, 30:] = 0.15
    found = canny(picture(levels), low=0.05, high=0.15)[0, 0]
    assert found[2:-2, 8:12].sum(1).tolist() == [1.0] * 28, "the weak end of the first step"
    assert found[:, 28:32].sum() == 0, "the weak step alone"
    assert canny(picture(levels), low=0.03, high=0.04)[0, 0, :, 28:32].sum() == 32


def test_pictures_do_not_depend_on_what_is_beside_them() -> None:
    images = torch.rand(2, 3, 20, 20, generator=torch.Generator().manual_seed(0)) * 2 - 1
    assert torch.equal(canny(images)[1:], canny(images[1:]))
    assert set(canny(images).unique().tolist()) == {0.0, 1.0}
