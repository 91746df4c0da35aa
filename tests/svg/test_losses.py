"""Losses against hand-computed values, and what they make optimisation do."""

import math

import pytest
import torch

from pcs_ext.svg.vector.losses import (
    crossing_loss,
    cubics,
    image_loss,
    minimum_area_loss,
    multi_scale_loss,
    rigidity_loss,
    signed_area,
    smoothness_loss,
)
from pcs_ext.svg.vector.render import render
from pcs_ext.svg.vector.scene import Path, Scene, Subpath, paint
from tests.svg.conftest import circle


def test_image_loss_weights_pixels() -> None:
    drawn, target = torch.zeros(3, 1, 2), torch.tensor([1.0, 2.0]).expand(3, 1, 2)
    assert float(image_loss(drawn, target)) == pytest.approx(2.5)
    assert float(image_loss(drawn, target, torch.tensor([[3.0, 1.0]]))) == pytest.approx(1.75)


def test_several_scales_see_displacement_that_pixels_do_not() -> None:
    def spot(x: int) -> torch.Tensor:
        image = torch.zeros(3, 32, 32)
        image[:, 12:16, x : x + 4] = 1
        return image

    near, far = spot(4), spot(24)
    assert float(image_loss(spot(0), near)) == pytest.approx(float(image_loss(spot(0), far)))
    assert float(multi_scale_loss(spot(0), near)) < 0.95 * float(multi_scale_loss(spot(0), far))


def test_crossed_handles_are_punished_straight_and_round_ones_not() -> None:
    round_ones = cubics(Subpath(points=circle(0, 0, 5), closed=True))
    assert float(crossing_loss(round_ones)) == 0
    crossed = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [1.0, 0.0]]])
    assert float(crossing_loss(crossed)) == pytest.approx(1.0, abs=1e-6)
    loop = torch.tensor([[[0.0, 0.0], [2.0, 1.0], [0.0, 2.0], [1.0, 0.0]]])
    legs = loop[0, 1:] - loop[0, :-1]
    first, third = legs[0] / legs[0].norm(), legs[2] / legs[2].norm()
    sine = float(first[0] * third[1] - first[1] * third[0])
    assert sine < 0
    assert float(crossing_loss(loop)) == pytest.approx(-sine, abs=1e-6)


def test_rigidity_is_zero_for_similar_shapes_only() -> None:
    points = circle(3, 4, 5) + torch.linspace(0, 2, 12, dtype=torch.float64)[:, None]
    turn = torch.tensor([[math.cos(1), -math.sin(1)], [math.sin(1), math.cos(1)]], dtype=torch.float64)
    assert float(rigidity_loss(2.5 * points @ turn + 7, points)) == pytest.approx(0, abs=1e-20)
    assert float(rigidity_loss(points * torch.tensor([2.0, 1.0]), points)) > 0.05


def test_areas_of_cubics_are_exact() -> None:
    square = Subpath(
        points=torch.tensor(
            [[0, 0], [1, 0], [2, 0], [3, 0], [3, 1], [3, 2], [3, 3], [2, 3], [1, 3], [0, 3], [0, 2], [0, 1]]
        ).double(),
        closed=True,
    )
    assert float(signed_area(cubics(square))) == pytest.approx(9)
    assert float(minimum_area_loss(square, 12.0)) == pytest.approx(0.25)
    assert float(minimum_area_loss(square, 8.0)) == 0
    disc = Subpath(points=circle(20, 9, 5, 32), closed=True)
    assert float(signed_area(cubics(disc))) == pytest.approx(25 * math.pi, rel=1e-6)


def test_smoothness_prefers_round_to_wobbly_and_ignores_scale() -> None:
    points = circle(0, 0, 5, 8)
    wobbly = points + torch.rand(24, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    smooth, rough = (float(smoothness_loss(Subpath(points=p, closed=True))) for p in (points, wobbly))
    assert smooth < 0.5 * rough
    assert float(smoothness_loss(Subpath(points=9 * wobbly + 3, closed=True))) == pytest.approx(rough)


def test_perturbed_points_are_recovered_in_a_hundred_steps() -> None:
    def draw(points: torch.Tensor) -> torch.Tensor:
        shape = Subpath(points=points, closed=True)
        path = Path(id="p", subpaths=(shape,), fill=paint(0, 0, 0, dtype=torch.float32))
        return render(Scene(view_box=(0, 0, 96, 96), size=(96, 96), paths=(path,)), 96, 96)

    truth = circle(46, 50, 24, 6).float()
    noise = torch.randn(18, 2, generator=torch.Generator().manual_seed(0)) * 5
    points = (truth + noise + 4).requires_grad_()
    target = draw(truth)
    optimizer = torch.optim.Adam([points], lr=1.0)
    for _ in range(100):
        optimizer.zero_grad()
        multi_scale_loss(draw(points), target).backward()
        optimizer.step()
    ours, wanted = 1 - draw(points.detach())[0], 1 - target[0]
    overlap = float(torch.minimum(ours, wanted).sum() / torch.maximum(ours, wanted).sum())
    assert overlap >= 0.98
