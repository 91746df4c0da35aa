"""The rasteriser against resvg, analytic areas and finite differences."""

import dataclasses
import math

import pytest
import torch

from pcs_ext.svg.vector.read import parse_svg
from pcs_ext.svg.vector.render import render
from pcs_ext.svg.vector.scene import Cap, Join, Path, Rule, Scene, Stroke, Subpath, paint
from pcs_ext.svg.vector.write import new_svg
from tests.svg.conftest import blobs, circle, reference


def _one(path: Path, side: float = 32) -> Scene:
    return Scene(view_box=(0, 0, side, side), size=(side, side), paths=(path,))


def _polygon(*corners: tuple[float, float]) -> Subpath:
    points = torch.tensor(corners, dtype=torch.float64)
    after = points.roll(-1, 0)
    chain = torch.stack([points, (2 * points + after) / 3, (points + 2 * after) / 3], 1)
    return Subpath(points=chain.reshape(-1, 2), closed=True)


def _area(scene: Scene, side: int = 32) -> float:
    return float((1 - render(scene, side, side))[0].sum())


def test_areas_are_exact() -> None:
    black = paint(0, 0, 0)
    triangle = _polygon((3.3, 2.1), (28.7, 9.4), (11.2, 30.5))
    assert _area(_one(Path(id="t", subpaths=(triangle,), fill=black))) == pytest.approx(331.845, abs=1e-3)
    # Chords lie inside their curve, by at most 0.01 pixels on average.
    disc, hole = (Subpath(points=circle(16.2, 15.7, r, 16), closed=True) for r in (12.0, 5.0))
    ring = Path(id="r", subpaths=(disc, hole), fill=black, rule="evenodd")
    assert _area(_one(ring)) == pytest.approx(math.pi * 119, abs=0.01 * 2 * math.pi * 17)
    filled = dataclasses.replace(ring, rule="nonzero")
    assert _area(_one(filled)) == pytest.approx(math.pi * 144, abs=0.01 * 2 * math.pi * 12)


def test_parts_outside_the_canvas_are_cut_not_bent() -> None:
    square = _polygon((-10, -10), (40, -10), (40, 40), (-10, 40))
    assert _area(_one(Path(id="s", subpaths=(square,), fill=paint(0, 0, 0)))) == pytest.approx(1024, abs=1e-6)
    diagonal = _polygon((-32, 0), (32, 64), (-32, 64))
    assert _area(_one(Path(id="d", subpaths=(diagonal,), fill=paint(0, 0, 0)))) == pytest.approx(0, abs=1e-6)
    corner = _polygon((-16, 16), (16, 48), (-16, 48))
    assert _area(_one(Path(id="c", subpaths=(corner,), fill=paint(0, 0, 0)))) == pytest.approx(0, abs=1e-6)
    half = _polygon((-16, 0), (32, 0), (-16, 48))
    # x + y < 32 within the canvas.
    assert _area(_one(Path(id="h", subpaths=(half,), fill=paint(0, 0, 0)))) == pytest.approx(512, abs=1e-6)


@pytest.mark.parametrize(("seed", "rule"), [(0, "nonzero"), (1, "evenodd"), (2, "nonzero")])
def test_fills_look_like_resvg(seed: int, rule: Rule) -> None:
    scene = blobs(16, 224, seed)
    scene = dataclasses.replace(scene, paths=tuple(dataclasses.replace(path, rule=rule) for path in scene.paths))
    mean = (render(scene, 224, 224) - reference(new_svg(scene), 224)).abs().mean() * 255
    assert mean <= 0.3


@pytest.mark.parametrize(("cap", "join"), [("butt", "miter"), ("round", "round"), ("square", "bevel")])
def test_strokes_look_like_resvg_at_sixteen_times_the_size(cap: Cap, join: Join) -> None:
    # At its own size resvg's strokes are further from the truth (about 1/255) than ours.
    paths = []
    for index, path in enumerate(blobs(16, 160, 5).paths):
        points = path.subpaths[0].points
        shape = Subpath(points=points[:10], closed=False) if index % 2 else path.subpaths[0]
        stroke = Stroke(paint=paint(0.1, 0.2, 0.6), width=torch.tensor(1.0 + index / 2).double(), cap=cap, join=join)
        paths.append(dataclasses.replace(path, subpaths=(shape,), fill=None, stroke=stroke))
    scene = Scene(view_box=(0, 0, 160, 160), size=(160, 160), paths=tuple(paths))
    mean = (render(scene, 160, 160) - reference(new_svg(scene), 160, 16)).abs().mean() * 255
    assert mean <= 0.3


WIDE = {
    "a circle with a hole": '<circle cx="50" cy="50" r="10" stroke-width="40"/>',
    "a point of a circle": '<circle cx="50" cy="50" r="1" stroke-width="40"/>',
    "waves": '<path d="M30 40c0 -10 10 -10 10 0s10 10 10 0 10 -10 10 0" stroke-width="18"/>',
    "tilted ends": '<path d="M50 50q.3 .5 .6 0" stroke-width="30"/>',
    "a cusp": '<path d="M20 80C80 20 20 20 80 80" stroke-width="20"/>',
}


@pytest.mark.parametrize("kind", WIDE)
def test_strokes_wider_than_their_curves_are_round_look_like_resvg(kind: str) -> None:
    head = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 100 100" width="100" height="100" fill="none" '
    svg = f'{head} stroke="black">{WIDE[kind]}</svg>'.encode()
    mean = (render(parse_svg(svg).scene, 100, 100) - reference(svg, 100, 16)).abs().mean() * 255
    assert mean <= 0.1


def test_moving_by_whole_pixels_moves_the_picture(scene: Scene) -> None:
    moved = []
    for path in scene.paths:
        parts = tuple(dataclasses.replace(part, points=part.points + 7.0) for part in path.subpaths)
        moved.append(dataclasses.replace(path, subpaths=parts))
    there = render(dataclasses.replace(scene, paths=tuple(moved)), 96, 96)
    assert torch.allclose(render(scene, 96, 96)[:, :-7, :-7], there[:, 7:, 7:], atol=1e-9)


def test_transparent_pictures_composite_to_the_opaque_one() -> None:
    scene = blobs(12, 64, 4, opacity=0.6)
    clear = render(scene, 64, 64, background=None)
    assert torch.allclose(clear[:3] + (1 - clear[3:]), render(scene, 64, 64), atol=1e-12)
    assert torch.equal(render(dataclasses.replace(scene, paths=()), 8, 8), torch.ones(3, 8, 8))


def test_corners_of_level_edges_have_gradients() -> None:
    points = _polygon((8.3, 9.4), (20.6, 9.4), (20.6, 19.7), (8.3, 19.7)).points.requires_grad_()
    shape = Subpath(points=points, closed=True)
    render(_one(Path(id="r", subpaths=(shape,), fill=paint(0, 0, 0))), 32, 32)[0].sum().backward()
    assert points.grad is not None
    # Of what stays white, which grows where a corner goes inwards: half of the edge beside it.
    expected = [(5.15, 6.15), (-5.15, 6.15), (-5.15, -6.15), (5.15, -6.15)]
    assert torch.allclose(points.grad[::3], torch.tensor(expected, dtype=torch.float64))


def _parameters(kind: str) -> tuple[Path, list[torch.Tensor]]:
    points = (circle(15.3, 16.1, 9.2) + torch.linspace(-1, 1, 12, dtype=torch.float64)[:, None]).requires_grad_()
    fill, line = paint(0.3, 0.6, 0.1, 0.8), paint(0.9, 0.2, 0.4, 0.7)
    width = torch.tensor(2.3, dtype=torch.float64)
    shape = Subpath(points=points, closed=True)
    if kind == "stroke":
        stroke = Stroke(paint=line, width=width, join="round")
        path = Path(id="p", subpaths=(shape,), stroke=stroke)
        return path, [points, line.color, line.opacity, width]
    inner = Subpath(points=circle(14.6, 15.2, 4.1), closed=True)
    path = Path(id="p", subpaths=(shape, inner), fill=fill, rule="evenodd" if kind == "evenodd" else "nonzero")
    return path, [points, inner.points, fill.color, fill.opacity]


@pytest.mark.parametrize("kind", ["nonzero", "evenodd", "stroke"])
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    path, parameters = _parameters(kind)
    for parameter in parameters:
        parameter.requires_grad_()
    weights = torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def value() -> torch.Tensor:
        return (render(_one(path), 32, 32) * weights).sum()

    gradients = torch.autograd.grad(value(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        assert gradient is not None
        flat = parameter.data.view(-1)
        for index in range(len(flat)):
            old, step = flat[index].item(), 1e-6
            flat[index] = old + step
            above = value().item()
            flat[index] = old - step
            below = value().item()
            flat[index] = old
            expected = (above - below) / (2 * step)
            assert gradient.reshape(-1)[index].item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_shapes_outside_the_picture_cost_nothing_and_get_no_gradient() -> None:
    points = circle(900.0, 900.0, 20.0).requires_grad_()
    image = render(_one(Path(id="p", subpaths=(Subpath(points=points, closed=True),), fill=paint(0, 0, 0))), 32, 32)
    assert torch.equal(image, torch.ones_like(image))
    image.sum().backward()
    assert points.grad is not None
    assert float(points.grad.abs().max()) == 0
