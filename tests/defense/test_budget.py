"""Budgets by hand: conversions, projection, the integer grid."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pcs_ext.defense.budget import CONVENTIONS, Budget, from_levels, l2_to_levels, to_levels
from pcs_ext.errors import ConfigError

PRINTED = {
    # method: (budget, step) in levels, worked out by hand from what the scripts print
    "fsmg": (6.375, 0.6375),
    "aspl": (6.375, 0.6375),
    "simac": (8.0, 0.6375),
    "caat": (6.375, 0.6375),
    "mist": (16.0, 1.0),
    "advdm": (16.0, 1.0),
    "sds": (16.0, 1.0),
    "mist-v2": (4.0, 0.6375),
    "photoguard": (7.65, 2.55),
    "metacloak": (11.0, 1.1),
    "pid": (12.75, 1.0),
}


def test_every_convention_in_levels() -> None:
    found = {name: (c.budget_levels, c.step_levels) for name, c in CONVENTIONS.items()}
    assert found.keys() == PRINTED.keys()
    for name, expected in PRINTED.items():
        assert found[name] == pytest.approx(expected), name


def test_conversions_are_each_others_inverse() -> None:
    assert to_levels(0.05, "[-1,1]") == pytest.approx(6.375)
    assert to_levels(0.05, "[0,1]") == pytest.approx(12.75)
    assert from_levels(to_levels(0.3, "[-1,1]"), "[-1,1]") == pytest.approx(0.3)
    # PhotoGuard's L2 16 on [-1, 1]: 16 * 127.5 / sqrt(786432) levels
    assert l2_to_levels(16, "[-1,1]", 3 * 512 * 512) == pytest.approx(2.30037, abs=1e-4)


@pytest.mark.parametrize(
    ("levels", "largest"), [(6.375, 6), (8.0, 8), (12.75, 12), (4.0, 4), (0.5, 0), (7.65, 7), (2 - 7e-15, 1)]
)
def test_rounding_never_exceeds_the_bound(levels: float, largest: int) -> None:
    pixels = torch.arange(256).repeat(3, 1)[:, None]
    for sign in (-1, 1):
        delta = Budget(levels=levels).quantise(torch.full((3, 1, 256), 99.0 * sign), pixels)
        room = pixels if sign < 0 else 255 - pixels
        assert torch.equal(delta.abs(), torch.minimum(torch.tensor(largest), room).to(torch.int16))


@settings(max_examples=60, deadline=None)
@given(
    norm=st.sampled_from(["linf", "l2", "perceptual"]),
    levels=st.floats(0.3, 40),
    strength=st.floats(0, 90),
    seed=st.integers(0, 9999),
)
def test_whatever_a_method_does_the_file_is_within(norm: str, levels: float, strength: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (3, 7, 9), generator=generator, dtype=torch.uint8)
    delta = strength * torch.randn(3, 7, 9, generator=generator)
    budget = Budget(norm=norm, levels=levels)  # type: ignore[arg-type]
    changed = pixels.to(torch.int16) + budget.quantise(delta, pixels)
    assert changed.min() >= 0
    assert changed.max() <= 255
    assert budget.check(changed.to(torch.uint8), pixels).within
    projected = budget.project(delta, pixels)
    assert torch.allclose(budget.project(projected, pixels), projected, atol=1e-4), "projecting twice is once"


def test_l2_is_a_root_mean_square_and_uses_what_it_may() -> None:
    pixels = torch.full((1, 8, 8), 128)
    delta = Budget(norm="l2", levels=2.0).project(torch.full((1, 8, 8), 5.0), pixels)
    assert torch.allclose(delta, torch.full_like(delta, 2.0))
    one = torch.zeros(1, 8, 8)
    one[0, 0, 0] = 100  # rms 12.5: scaled by 2 / 12.5
    assert Budget(norm="l2", levels=2.0).project(one, pixels)[0, 0, 0] == pytest.approx(16.0)


def test_smooth_places_get_less_room() -> None:
    pixels = torch.full((1, 32, 32), 128.0)
    pixels[:, :, 16:] += 60 * ((torch.arange(16) + torch.arange(32)[:, None]) % 2)
    room = Budget(norm="perceptual", levels=8, floor=0.25).room(pixels)
    assert room is not None
    assert room[0, 16, 3] == pytest.approx(2.0, abs=1e-2)  # 8 * 0.25
    assert room[0, 16, 28] == pytest.approx(8.0)  # deviation 30 is above 8 levels
    assert float(room.max()) <= 8


def test_check_reports_what_is_there() -> None:
    pixels = torch.full((1, 2, 2), 100, dtype=torch.uint8)
    changed = torch.tensor([[[91, 100], [100, 103]]], dtype=torch.uint8)
    found = Budget(levels=8).check(changed, pixels)
    assert (found.within, found.max_levels) == (False, 9.0)
    assert found.rms_levels == pytest.approx((90 / 4) ** 0.5)
    assert Budget(levels=9).check(changed, pixels).within


@pytest.mark.parametrize("levels", [0, -1, 256])
def test_budgets_that_make_no_sense(levels: float) -> None:
    with pytest.raises(ConfigError, match="above 0 and at most 255"):
        Budget(levels=levels)
