"""Feature fields: where rays and points are, what they look up, by hand; and that they learn to turn a subject."""

import math

import torch

from pcs_ext.image.cameras import Cameras, of_squares, orbit
from pcs_ext.image.feature_nerf import FeatureNerf, ball_points, composite, looked_up, normalised, waves
from pcs_ext.image.posed import ball_of
from pcs_ext.toybox.world.scene import Camera, Scene
from pcs_ext.toybox.world.subjects import SUBJECTS, photos


def front(distance: float = 3.0, fov: float = 40.0) -> Cameras:
    return orbit([0.0], [0.0], [distance], [fov])


def test_samples_lie_in_equal_bins_inside_the_ball() -> None:
    points = ball_points(front(), (1, 1), 4)
    expected = torch.tensor([[0.0, y, 0.0] for y in (-0.75, -0.25, 0.25, 0.75)])  # the front camera looks along +y
    torch.testing.assert_close(points.places[0, 0], expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(points.gap, torch.tensor([[0.5]]))
    torch.testing.assert_close(points.moments[0, 0], torch.tensor([0.0, 1, 0, 0, 0, 0]), atol=1e-6, rtol=0)
    jitter = torch.tensor([[[0.0, 0.5, 0.999, 0.25]]])
    shaken = ball_points(front(), (1, 1), 4, jitter).places[0, 0, :, 1]
    torch.testing.assert_close(shaken, torch.tensor([-1.0, -0.25, 0.4995, 0.625]), atol=1e-6, rtol=0)
    wide = ball_points(front(fov=90.0), (8, 8), 4)
    missed = wide.gap[0].reshape(8, 8) == 0
    assert missed[0].all(), "rays beside the ball have nothing to render"
    assert not missed[3:5, 3:5].any()
    inside = wide.places[0][wide.gap[0] > 0]
    assert (inside.norm(dim=-1) <= 1 + 1e-5).all()


def test_a_point_is_looked_up_where_its_own_camera_sees_it() -> None:
    cameras = orbit([0.0, 130.0], [20.0, -10.0], [3.0, 4.0], [40.0, 30.0], (0.0, 0.0, 0.2))
    side = 6
    maps = torch.arange(2 * side * side, dtype=torch.float32).reshape(2, 1, side, side)
    points = ball_points(cameras, (side, side), 3)
    found, visible = looked_up(maps, cameras, points.places)
    for index in range(2):
        own = found[index, index, :, :, 0]
        hit = points.gap[index] > 0
        expected = maps[index].reshape(-1, 1).expand(-1, 3)
        torch.testing.assert_close(own[hit], expected[hit], atol=2e-3, rtol=0)
        assert visible[index, index][hit].all()
    behind = torch.tensor([[0.0, -9.0, 0.0]])
    assert not looked_up(maps[:1], cameras[[0]], behind)[1].any()
    beside = torch.tensor([[3.0, 0.0, 0.0]])
    assert not looked_up(maps[:1], cameras[[0]], beside)[1].any()


def test_weights_are_volume_rendering_s() -> None:
    density, gap = torch.tensor([[[1.0, 2.0, 0.5]]]), torch.tensor([[0.3]])
    alphas = [1 - math.exp(-0.3 * value) for value in (1.0, 2.0, 0.5)]
    expected = [alphas[0], (1 - alphas[0]) * alphas[1], (1 - alphas[0]) * (1 - alphas[1]) * alphas[2]]
    torch.testing.assert_close(composite(density, gap), torch.tensor([[expected]]))
    assert composite(density, torch.zeros(1, 1)).sum() == 0
    torch.testing.assert_close(
        waves(torch.tensor([0.25]))[:4], torch.tensor([math.sin(math.pi * x / 4) for x in (1, 2, 4, 8)])
    )


def test_the_subject_s_ball_and_squares() -> None:
    ring = orbit([0.0, 70.0, 200.0], [10.0, 40.0, -5.0], [4.0, 5.0, 6.0], [40.0] * 3, (0.3, -0.2, 0.5))
    side, masks = 200, []
    for distance in (4.0, 5.0, 6.0):  # a ball of radius 0.7 about the point they look at is a disc in the middle
        cells = ((torch.arange(side) + 0.5) * (2 / side) - 1) * math.tan(math.radians(20))
        edge = math.tan(math.asin(0.7 / distance))
        masks.append((cells[:, None].square() + cells[None].square() <= edge**2).float())
    ball = ball_of(ring, torch.stack(masks)[:, None])
    torch.testing.assert_close(ball.center, torch.tensor([0.3, -0.2, 0.5]), atol=1e-4, rtol=0)
    assert abs(float(ball.radius) - 0.7) < 0.02
    moved = normalised(ring, ball.center, ball.radius)
    torch.testing.assert_close(
        moved.positions.norm(dim=1), torch.tensor([4.0, 5.0, 6.0]) / ball.radius, atol=1e-3, rtol=0
    )
    square = of_squares(front(fov=60.0), [80], [40])
    torch.testing.assert_close(square.fov, torch.tensor([2 * math.degrees(math.atan(math.tan(math.radians(30)) / 2))]))
    torch.testing.assert_close(of_squares(front(fov=60.0), [40], [80]).fov, torch.tensor([60.0]))


def test_a_field_shows_views_it_was_never_taught() -> None:
    """From four true views of a toy, another of six views on each step; then six that were held out."""
    azimuth = [0.0, 90.0, 180.0, 270.0, 45.0, 135.0, 225.0, 315.0, 20.0, 110.0, 200.0, 290.0, 65.0, 155.0, 245.0, 335.0]
    seen = photos(
        tuple(Scene(objects=(SUBJECTS["rex"],), camera=Camera(azimuth=value)) for value in azimuth), resolution=32
    )
    cameras = orbit(azimuth, [15.0] * 16, [5.2] * 16, [32.0] * 16, (0.0, 0.0, 0.75))
    ball = ball_of(cameras, seen.masks)
    cameras = normalised(cameras, ball.center, ball.radius)
    small = torch.nn.functional.interpolate(torch.cat([seen.images * 0.5 + 0.5, seen.masks], 1), (10, 10), mode="area")
    shown = small.flatten(2).transpose(1, 2)
    torch.manual_seed(0)
    field = FeatureNerf(3, 8, 32)
    optimizer = torch.optim.Adam(field.parameters(), lr=5e-3)
    references, states = [0, 1, 2, 3], torch.zeros(1, 2, 8)

    def error(target: int) -> torch.Tensor:
        points = ball_points(cameras[[target]], (10, 10), 10)
        made = field.render(small[references, :3], cameras[references], points, states)
        mask = shown[target, :, 3]
        color = (mask[:, None] * (made.colors[0] - shown[target, :, :3]).square()).sum() / mask.sum()
        return color + (made.opacity[0] - mask).square().mean()

    for step in range(120):
        optimizer.zero_grad()
        error(4 + step % 8).backward()
        optimizer.step()
    with torch.no_grad():
        held_out = [12, 13, 14, 15]
        right = sum(float(error(target)) for target in held_out)
        flat = 0.0
        for color, mask in ((shown[t, :, :3], shown[t, :, 3]) for t in held_out):
            flat += float((mask[:, None] * (color - color.mean(0)).square()).sum() / mask.sum())
            flat += float((mask - shown[..., 3].mean()).square().mean())
        shown[held_out] = shown[[14, 15, 12, 13]]  # from behind instead
        wrong = sum(float(error(target)) for target in held_out)
    assert right < 0.5 * flat, "views that were never taught are better than one colour"
    assert right < 0.8 * wrong, "and are those of their own camera"
