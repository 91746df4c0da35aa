"""SVDiff's weights stay in the singular form of the base's."""

import pytest
import torch
from torch import nn

from pcs_ext.image.adapters.spectral_shift import SpectralShiftLayer

SHAPES = {"wide": nn.Linear(9, 5), "tall": nn.Linear(4, 7, bias=False), "kernel": nn.Conv2d(3, 6, 3, 2, 1)}


def shifted(base: nn.Linear | nn.Conv2d, delta: torch.Tensor | float) -> SpectralShiftLayer:
    layer = SpectralShiftLayer(base)
    layer.set_below(base)
    with torch.no_grad():
        layer.delta.add_(delta)
    return layer


@pytest.mark.parametrize("key", SHAPES)
@torch.no_grad()
def test_the_weight_is_the_base_at_other_singular_values(key: str) -> None:
    base = SHAPES[key]
    values = torch.linalg.svdvals(base.weight.flatten(1))
    delta = 0.3 * torch.randn(len(values), generator=torch.Generator().manual_seed(0))
    layer = shifted(base, delta)
    weight = layer.merge(base.weight)
    left, _, right = torch.linalg.svd(base.weight.flatten(1), full_matrices=False)
    form = left.T @ weight.flatten(1) @ right.T
    torch.testing.assert_close(form, torch.diag((values + delta).relu()), atol=1e-5, rtol=1e-5)
    x = torch.randn(2, 3, 8, 8) if key == "kernel" else torch.randn(2, base.weight.shape[1])
    expected = (
        torch.nn.functional.conv2d(x, weight, base.bias, stride=2, padding=1)
        if key == "kernel"
        else torch.nn.functional.linear(x, weight, base.bias)
    )
    torch.testing.assert_close(layer(x), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_singular_value_never_turns_negative() -> None:
    base = SHAPES["wide"]
    weight = shifted(base, -100.0).merge(base.weight)
    torch.testing.assert_close(weight, torch.zeros_like(weight), atol=1e-6, rtol=0)


@torch.no_grad()
def test_strength_scales_the_shift_itself() -> None:
    base = SHAPES["tall"]
    half = shifted(base, 0.5)
    half.scale = 0.5
    torch.testing.assert_close(half.merge(base.weight), shifted(base, 0.25).merge(base.weight))
