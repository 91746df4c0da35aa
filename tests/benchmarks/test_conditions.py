"""The table of swaps and layouts."""

import pytest

from benchmarks.arms import Figures
from benchmarks.condition_runs import (
    AS_IT_IS,
    LAYOUT,
    NO_ATTENTION,
    PLAIN,
    RENDERED,
    SIDES,
    SWAPS,
    asked_boxes,
    nearest_side,
    scenes_of,
    swap_mask,
    true_swaps,
)
from benchmarks.conditions import PLAIN_LAYOUT, result_rows
from pcs_ext.systems import beats_baseline
from pcs_ext.toybox.world.render import render


def test_a_swap_is_measured_against_the_better_of_two_and_by_one_measure() -> None:
    found = {arm: _swaps(value) for arm, value in {AS_IT_IS: 0.5, PLAIN: 0.3, NO_ATTENTION: 0.6, SWAPS[1]: 0.4}.items()}
    found |= {SWAPS[0]: _swaps(0.7), LAYOUT: _hits(0.2), PLAIN_LAYOUT: _hits(0.2), RENDERED: _hits(0.9)}
    rows = [row for row in result_rows(found, 2, 2) if row.get("system") == "photoswap"]
    assert [(row["metric"], row["baseline"]) for row in rows] == [("likeness in pose", AS_IT_IS)]
    assert rows[0]["value"] == pytest.approx(0.7)
    assert rows[0]["baseline_value"] == pytest.approx(0.5)
    assert beats_baseline(rows[0])
    (other,) = [row for row in result_rows(found, 2, 2) if row.get("system") == "swapanything"]
    assert not beats_baseline(other)
    (layout,) = [row for row in result_rows(found, 2, 2) if row.get("system") == LAYOUT]
    assert (layout["metric"], layout["baseline"], beats_baseline(layout)) == ("box hits", PLAIN_LAYOUT, False)


def test_a_pose_is_told_by_the_nearest_side_not_by_colours() -> None:
    (scene,) = scenes_of("swaps", 1, 0.0)
    true = true_swaps(scene, "rex")
    assert len(true) == SIDES
    for side in range(SIDES):
        assert nearest_side(true[side], true) == side
        assert nearest_side(true[side].flip(0), true[:, [2, 1, 0]]) == side
        assert nearest_side(0.8 * true[side], true) == side


def test_a_mask_has_room_around_the_toy() -> None:
    (scene,) = scenes_of("swaps", 1, 0.0)
    toy, mask = render([scene]).mask[0], swap_mask(scene)[0] > 0
    assert mask[toy].all()
    assert toy.sum() < mask.sum() < 0.9 * mask.numel()


def test_boxes_are_the_toys_own_or_each_others() -> None:
    (scene,) = scenes_of("layouts", 1, 1.0)
    own, other = asked_boxes(scene, exchanged=False), asked_boxes(scene, exchanged=True)
    assert [box.phrase for box in own] == [box.phrase for box in other]
    assert (own[0].left, own[0].right) == (other[1].left, other[1].right)
    assert own[0].right <= own[1].right


def _swaps(value: float) -> list[Figures]:
    return [
        {"likeness": 0.6, "pose": 1.0, "likeness in pose": value + noise, "outside": 0.0} for noise in (-0.01, 0.01)
    ]


def _hits(value: float) -> list[Figures]:
    return [{"box hits": value}, {"box hits": value}]
