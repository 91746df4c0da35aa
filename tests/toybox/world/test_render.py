import dataclasses
import json
import math

import pytest
import torch

from pcs_ext.errors import ConfigError
from pcs_ext.toybox.world.boxes import boxes
from pcs_ext.toybox.world.build import part_names
from pcs_ext.toybox.world.camera import camera_table, camera_to_world, project, rays
from pcs_ext.toybox.world.flow import flow
from pcs_ext.toybox.world.intersect import hit, normal
from pcs_ext.toybox.world.parts import BOX, CONE, CYLINDER, SPHERE
from pcs_ext.toybox.world.render import render, render_rgb
from pcs_ext.toybox.world.sampling import frame, sample_clip, sample_scene
from pcs_ext.toybox.world.scene import Camera, Scene, SceneObject
from pcs_ext.toybox.world.vocabulary import CLASSES, MOTIONS, PATTERNS


def scenes(count: int, seed: int = 0, **options) -> list[Scene]:
    generator = torch.Generator().manual_seed(seed)
    return [sample_scene(generator, **options) for _ in range(count)]


def vector(x: float, y: float, z: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return torch.tensor([float(x)]), torch.tensor([float(y)]), torch.tensor([float(z)])


def dog_scene(motion: str = "") -> Scene:
    toy = SceneObject(class_name="dog", color="red", second_color="blue")
    return Scene(objects=(toy,), camera=frame((toy,), 40, 12, fill=0.7), motion=motion, context="on the grass")


def test_equal_scenes_give_equal_pixels_whatever_else_is_in_the_batch():
    batch = scenes(12, two_objects=0.3)
    together = render_rgb(batch, resolution=48)
    assert torch.equal(together, render_rgb(batch, resolution=48))
    assert torch.equal(together, torch.cat([render_rgb([scene], resolution=48) for scene in batch]))
    assert torch.equal(together.flip(0), render_rgb(batch[::-1], resolution=48))


def test_pictures_are_in_range_and_differ():
    images = render_rgb(scenes(6), resolution=32)
    assert images.shape == (6, 3, 32, 32)
    assert images.dtype == torch.float32
    assert images.min() >= -1
    assert images.max() <= 1
    assert all((images[i] - images[j]).abs().mean() > 0.02 for i in range(6) for j in range(i))


def test_scene_survives_json_and_rejects_unknown_keys_at_every_level():
    scene = scenes(1, two_objects=1.0)[0]
    data = json.loads(json.dumps(scene.to_dict()))
    assert Scene.from_dict(data) == scene
    with pytest.raises(ConfigError, match="colour"):
        Scene.from_dict({**data, "colour": "red"})
    data["camera"]["zoom"] = 2
    with pytest.raises(ConfigError, match="zoom"):
        Scene.from_dict(data)


def test_unknown_part_is_refused_with_the_names_that_exist():
    toy = SceneObject(class_name="mug", color="red", second_color="blue", part_colors=(("wheels", "red"),))
    with pytest.raises(ConfigError, match="handle"):
        part_names(toy)


@pytest.mark.parametrize(
    ("kind", "origin", "direction", "distance", "outward"),
    [
        (SPHERE, (0, 0, 3), (0, 0, -1), 2.0, (0, 0, 1)),
        (SPHERE, (3, 0.6, 0), (-1, 0, 0), 3 - 0.8, (0.8, 0.6, 0)),
        (BOX, (0.3, -4, 0.2), (0, 1, 0), 3.0, (0, -1, 0)),
        (BOX, (3, 3, 0), (-1, -1, 0), 2.0, None),
        (CYLINDER, (5, 0, 0.5), (-1, 0, 0), 4.0, (1, 0, 0)),
        (CYLINDER, (0.5, 0, 4), (0, 0, -1), 3.0, (0, 0, 1)),
        (CONE, (3, 0, 0), (-1, 0, 0), 2.5, (2, 0, 1)),
        (CONE, (0.5, 0, -3), (0, 0, 1), 2.0, (0, 0, -1)),
    ],
)
def test_hits_agree_with_closed_forms(kind, origin, direction, distance, outward):
    o, d = vector(*origin), vector(*direction)
    t = hit(kind, o, d)
    assert t.item() == pytest.approx(distance, abs=1e-5)
    if outward is not None:
        n = torch.cat(normal(kind, *(a + t * b for a, b in zip(o, d, strict=True))))
        expected = torch.tensor(outward, dtype=torch.float32)
        assert torch.allclose(n / n.norm(), expected / expected.norm(), atol=1e-4)


@pytest.mark.parametrize("kind", [SPHERE, BOX, CYLINDER, CONE])
def test_rays_that_pass_by_or_start_behind_miss(kind):
    assert hit(kind, vector(5, 3, 0), vector(-1, 0, 0)).item() == math.inf
    assert hit(kind, vector(5, 0, 0), vector(1, 0, 0)).item() == math.inf


def test_camera_matrix_rays_and_projection_agree():
    camera = Camera(azimuth=37, elevation=23, distance=4.2, fov=40, target=(0.2, -0.1, 0.7))
    matrix = camera_to_world(camera)
    assert torch.allclose(matrix[:3, :3].T @ matrix[:3, :3], torch.eye(3, dtype=torch.float64), atol=1e-9)
    assert torch.linalg.det(matrix[:3, :3]) > 0
    table = camera_table([camera], torch.device("cpu"))
    target, depth = project(torch.tensor(camera.target), table[0], 20, 20, False)
    assert torch.allclose(target, torch.tensor([10.0, 10.0]), atol=1e-3)
    assert depth.item() == pytest.approx(4.2, abs=1e-4)
    for round_view in (False, True):
        direction = torch.stack([d[0] for d in rays(table, 10, 20, round_view)], -1)
        pixels, _ = project(table[0, 3, :3] + 3 * direction, table[0], 10, 20, round_view)
        assert torch.allclose(pixels[..., 0], (torch.arange(20) + 0.5).expand(10, 20), atol=2e-3)
        assert torch.allclose(pixels[..., 1], (torch.arange(10) + 0.5)[:, None].expand(10, 20), atol=2e-3)


def test_depth_reprojects_to_the_object_points_and_normals_face_the_camera():
    scene = dog_scene()
    shown = render([scene], resolution=64)
    table = camera_table([scene.camera], torch.device("cpu"))
    direction = torch.stack([d[0] for d in rays(table, 64, 64, False)], -1)
    on = shown.mask[0]
    distance = shown.depth[0] / (direction * table[0, 2, :3]).sum(-1)
    points = table[0, 3, :3] + direction * distance[..., None]
    # The toy stands unturned at the origin: its own frame is the world's.
    assert torch.allclose(points[on], shown.object_coordinates[0].permute(1, 2, 0)[on], atol=1e-3)
    normals = shown.normals[0].permute(1, 2, 0)[on]
    assert torch.allclose(normals.norm(dim=-1), torch.ones(len(normals)), atol=1e-4)
    assert ((normals * direction[on]).sum(-1) <= 1e-4).all()


def test_normals_agree_with_the_slope_of_depth():
    toy = SceneObject(class_name="duck", color="red", second_color="blue")
    scene = Scene(objects=(toy,), camera=frame((toy,), 20, 15, fill=0.9))
    shown = render([scene], resolution=192)
    points = shown.object_coordinates[0]
    across = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
    up = points[:, :-2, 1:-1] - points[:, 2:, 1:-1]
    slope = torch.nn.functional.normalize(torch.cross(across, up, dim=0), dim=0)
    ids = shown.part_ids[0]
    middle = ids[1:-1, 1:-1]
    same = (middle >= 0) & (ids[1:-1, 2:] == middle) & (ids[1:-1, :-2] == middle)
    same &= (ids[:-2, 1:-1] == middle) & (ids[2:, 1:-1] == middle)
    agreement = (slope * shown.normals[0][:, 1:-1, 1:-1]).sum(0)[same]
    assert same.sum() > 1000
    assert agreement.median() > 0.999
    assert (agreement > 0.98).float().mean() > 0.95


def test_masks_part_ids_and_object_ids_agree():
    scene = scenes(1, seed=5, two_objects=1.0)[0]
    shown = render([scene], resolution=64)
    assert torch.equal(shown.mask, shown.part_ids >= 0)
    assert torch.equal(shown.mask, shown.object_ids >= 0)
    for number, toy in enumerate(scene.objects):
        assert shown.part_ids[shown.object_ids == number].max() < len(part_names(toy))
    assert ((shown.coverage > 0.5) == shown.mask).float().mean() > 0.98
    assert torch.isfinite(shown.depth[shown.mask]).all()
    assert (shown.object_coordinates.abs().sum(1)[~shown.mask] == 0).all()


def test_boxes_hold_the_objects_and_stand_side_by_side():
    scene = scenes(1, seed=5, two_objects=1.0)[0]
    both = boxes(scene)
    assert both.shape == (2, 4)
    assert both[0, 2] <= both[1, 2]
    assert both[0, 0] < both[1, 0]
    rows, columns = (render([scene], resolution=256).object_ids[0] == 0).nonzero(as_tuple=True)
    seen = torch.stack([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]) / 256
    assert (both[0, :2] <= seen[:2] + 1e-6).all()
    assert (both[0, 2:] >= seen[2:] - 1e-6).all()


@pytest.mark.parametrize("motion", MOTIONS)
def test_flow_lands_on_the_same_point_of_the_object(motion):
    scene = dog_scene(motion)
    # Eight frames a second of a two second clip: neighbouring frames.
    start, end, size = 0.30, 0.36, 96
    found = flow(scene, start, end, resolution=size)
    shown = render([scene.at(start), scene.at(end)], resolution=size)
    use = found.visible & shown.mask[0]
    assert use.sum() > 200
    y, x = use.nonzero(as_tuple=True)
    there_x = (x + 0.5 + found.displacement[0][use]).floor().long()
    there_y = (y + 0.5 + found.displacement[1][use]).floor().long()
    before = shown.object_coordinates[0][:, y, x]
    after = shown.object_coordinates[1][:, there_y, there_x]
    # Landing anywhere in the pixel: half a pixel is about 0.02 units, more on surfaces seen at a slant.
    off = (before - after).norm(dim=0)
    assert off.median() < 0.04
    assert (off < 0.15).float().mean() > 0.95


def test_flow_of_a_still_is_zero_and_slides_go_their_way():
    still = flow(dog_scene(), 0.0, 1.0)
    assert still.displacement.abs().max() < 1e-2
    assert still.visible.float().mean() > 0.99
    mask = render([dog_scene("sliding to the left").at(0.4)]).mask[0]
    assert (flow(dog_scene("sliding to the left"), 0.4, 0.5).displacement[0][mask] < -0.5).all()
    background = flow(dog_scene("sliding to the left"), 0.4, 0.5).displacement[:, ~mask]
    assert background.abs().max() < 1e-2


def test_panoramas_are_twice_as_wide_and_close_around():
    scene = dog_scene()
    camera = Camera(projection="equirectangular", distance=0.0, elevation=0.0, target=(0.0, -3.0, 1.0))
    # The seam is behind the camera: turning the camera by half a turn moves it to the middle of the picture.
    pictures = [
        render_rgb([Scene(objects=scene.objects, context="on the grass", camera=c)], resolution=32, supersample=1)[0]
        for c in (camera, Camera(**{**camera.__dict__, "azimuth": 180.0}))
    ]
    assert pictures[0].shape == (3, 32, 64)
    assert (pictures[0].roll(32, dims=2) - pictures[1]).abs().mean() < 0.02


def test_mixed_projections_are_refused():
    scene = dog_scene()
    other = Scene(objects=scene.objects, camera=Camera(projection="equirectangular"))
    with pytest.raises(ConfigError, match="one projection"):
        render_rgb([scene, other])


def test_every_class_is_large_in_the_frame():
    for name in CLASSES:
        toy = SceneObject(class_name=name, color="red", second_color="blue")
        generator = torch.Generator().manual_seed(1)
        batch = [sample_scene(generator, toy=toy, two_objects=0.0) for _ in range(8)]
        assert render(batch, resolution=32).coverage.mean() > 0.12, name


@pytest.mark.parametrize("motion", MOTIONS)
def test_moving_toys_stay_in_the_picture(motion):
    clips = [sample_clip(torch.Generator().manual_seed(seed), motion=motion) for seed in range(6)]
    mask = render([clip.at(time) for clip in clips for time in (0.0, 0.25, 0.5, 0.75, 1.0)]).mask
    edges = torch.stack([mask[:, 0], mask[:, -1], mask[:, :, 0], mask[:, :, -1]])
    assert (mask.flatten(1).sum(1) > 40).all(), "never too small to be told"
    assert edges.any(-1).any(0).float().mean() < 0.2
    assert edges.sum(-1).max() < 0.4 * mask.shape[-1]


@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 12), (90, 12), (180, 12), (30, 60)])
def test_patterns_can_be_seen_and_told_apart_from_every_side(azimuth, elevation):
    toy = SceneObject(class_name="dog", color="red", second_color="blue")
    for name in CLASSES:
        toys = [dataclasses.replace(toy, class_name=name, pattern=pattern) for pattern in PATTERNS]
        camera = frame((toys[0],), azimuth, elevation, fill=0.9)
        shown = render([Scene(objects=(one,), camera=camera) for one in toys])
        differing = (shown.rgb[:, None] - shown.rgb[None]).abs().amax(2) > 0.2
        shares = (differing & shown.mask[0]).flatten(2).sum(2) / shown.mask[0].sum()
        least = shares[~torch.eye(len(toys), dtype=torch.bool)].min()
        assert least > 0.05, f"{name}: only {least:.2f} of its surface tells two patterns apart"
