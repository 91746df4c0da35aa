"""Masks by hand: nothing outside moves by a bit."""

import torch

from pcs_ext.image.masks import attended, bounding_box, cells_of, feathered, grown, inside_only, otsu


def test_outside_is_bit_exact_and_edges_mix() -> None:
    edited, original = (torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(i)) for i in (0, 1))
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6], mask[..., 3, 3] = 1, 0.25
    result = inside_only(edited, original, mask)
    outside, inside = mask[0, 0] == 0, mask[0, 0] == 1
    assert torch.equal(result[..., outside], original[..., outside])
    assert torch.equal(result[..., inside], edited[..., inside])
    torch.testing.assert_close(result[..., 3, 3], 0.25 * edited[..., 3, 3] + 0.75 * original[..., 3, 3])


def test_a_cell_is_inside_when_any_of_its_pixels_is() -> None:
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 3, 4] = 1
    assert cells_of(mask, 4)[0, 0].tolist() == [[0, 1], [0, 0]]
    assert bounding_box(mask) == (4, 3, 5, 4)
    assert grown(mask, 1).sum() == 9
    assert torch.equal(grown(mask, 0), mask)


def test_feathers_lie_inside() -> None:
    mask = torch.zeros(1, 1, 32, 32)
    mask[..., 6:26, 6:26] = 1
    soft = feathered(mask, 3)
    assert torch.equal(soft[mask == 0], torch.zeros_like(soft[mask == 0]))
    assert soft[0, 0, 16, 16] == 1
    assert 0 < soft[0, 0, 16, 6] < soft[0, 0, 16, 8] <= 1
    thin = torch.zeros(1, 1, 32, 32)
    thin[..., 10:12, 4:28] = 1
    assert feathered(thin, 5).max() == 1
    assert torch.equal(feathered(mask, 0), mask)


def test_where_a_word_looks() -> None:
    maps = torch.full((1, 3, 8, 8), 0.2)
    maps[0, 1, 2:4, 2:4] = 0.6
    expected = torch.zeros(8, 8)
    expected[2:4, 2:4] = 1
    for threshold in (0.3, None):
        assert torch.equal(attended(maps, [1], threshold)[0, 0], expected)


def test_otsu_parts_two_clusters() -> None:
    values = torch.tensor([0.0, 0.1, 0.12, 0.9, 1.0, 0.05])
    assert 0.12 < otsu(values) < 0.9
