"""The rasteriser by distances draws what ours draws, or its times say nothing."""

import torch

from benchmarks.rasterizer import wobbly_scene
from benchmarks.signed_distance import draw_by_distances
from pcs_ext.svg.vector.render import render


def test_distances_draw_the_same_picture_and_move_the_same_points() -> None:
    pictures, gradients = [], []
    for drawn in (draw_by_distances, lambda scene, side: render(scene, side, side)):
        scene = wobbly_scene(6, 64)
        image = drawn(scene, 64)
        (image * torch.linspace(0, 1, 64)).sum().backward()
        pictures.append(image.detach())
        points = [path.subpaths[0].points.grad for path in scene.paths]
        gradients.append(torch.cat([grad.flatten() for grad in points if grad is not None]))
    assert (pictures[0] - pictures[1]).abs().mean() < 2 / 255
    assert pictures[0].std() > 0.1
    assert torch.cosine_similarity(gradients[0], gradients[1], dim=0) > 0.9
