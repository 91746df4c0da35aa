"""`python -m benchmarks.rasterizer`: the differentiable rasteriser both ways, resvg and signed distances beside it.

Scenes of wobbly closed paths of four cubics (radius 5 to 17 % of the canvas), opaque; gradients to all points, colours
and opacities. resvg parses the text and encodes a PNG in its time, ours starts from tensors. Times are CPU time of one
thread, the median over rounds, so that other work on the machine hardly moves them. All pictures are also compared
with resvg's at 16 times the size, box-filtered, as the truth. `benchmarks.signed_distance` draws the same scenes.
"""

import io
import json
import math
import statistics
import time
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import resvg_py
import torch
import tyro
from PIL import Image
from torch import Tensor

from benchmarks.signed_distance import draw_by_distances
from pcs_ext.svg.vector.render import render
from pcs_ext.svg.vector.scene import Path, Scene, Subpath, paint
from pcs_ext.svg.vector.write import new_svg

T = TypeVar("T")
OVERSAMPLE = 16
_SLOW_ROUNDS = 3
"""Of the rasteriser by distances."""


def main(paths: tuple[int, ...] = (16, 64, 256, 512), side: int = 224, rounds: int = 15) -> None:
    """Measure and print JSON.

    Args:
        paths: sizes of the scenes.
        side: of the square canvas, pixels.
        rounds: passes whose median counts.
    """
    torch.set_num_threads(1)
    rows = [_measure(count, side, rounds) for count in paths]
    print(json.dumps({"benchmark": "rasterizer", "side": side, "rounds": rounds, "threads": 1, "rows": rows}, indent=2))


def _measure(count: int, side: int, rounds: int) -> dict[str, float]:
    scene = wobbly_scene(count, side)
    image, forward, backward = _both_ways(lambda: render(scene, side, side), rounds)
    distances, far, back = _both_ways(lambda: draw_by_distances(scene, side), min(rounds, _SLOW_ROUNDS))
    text = new_svg(scene).decode()
    peer = [_timed(lambda: _resvg(text, side)) for _ in range(rounds)]
    levels, truth = _levels(peer[0][0], 1), _levels(_resvg(text, side * OVERSAMPLE), OVERSAMPLE)
    ours, others = (drawn.permute(1, 2, 0).double().numpy() * 255 for drawn in (image, distances))
    return {
        "paths": count,
        "forward_ms": forward,
        "backward_ms": backward,
        "signed_distance_forward_ms": far,
        "signed_distance_backward_ms": back,
        "resvg_forward_ms": round(1000 * statistics.median(seconds for _, seconds in peer), 2),
        "mean_difference_to_resvg_levels": round(float(np.abs(ours - levels).mean()), 3),
        "ours_to_oversampled_levels": round(float(np.abs(ours - truth).mean()), 3),
        "resvg_to_oversampled_levels": round(float(np.abs(levels - truth).mean()), 3),
        "signed_distance_to_oversampled_levels": round(float(np.abs(others - truth).mean()), 3),
    }


def _both_ways(call: Callable[[], Tensor], rounds: int) -> tuple[Tensor, float, float]:
    """The picture, and the milliseconds that it and its gradients take; two more rounds warm up."""
    forward, backward, image = [], [], torch.zeros(0)
    for _ in range(rounds + 2):
        image, seconds = _timed(call)
        forward.append(seconds)
        backward.append(_timed(image.square().mean().backward)[1])
    milliseconds = (round(1000 * statistics.median(found[2:]), 2) for found in (forward, backward))
    return (image.detach(), *milliseconds)


def _resvg(text: str, side: int) -> bytes:
    return resvg_py.svg_to_bytes(svg_string=text, width=side, background="#ffffff")


def _levels(png: bytes, factor: int) -> np.ndarray:
    """A square picture `s s 3`, box-filtered to one `factor`-th of its size."""
    large = np.array(Image.open(io.BytesIO(png)).convert("RGB")).astype(np.float64)
    side = len(large) // factor
    return large.reshape(side, factor, side, factor, 3).mean((1, 3))


def _timed(call: Callable[[], T]) -> tuple[T, float]:
    start = time.process_time()
    result = call()
    return result, time.process_time() - start


def wobbly_scene(count: int, side: int) -> Scene:
    generator = torch.Generator().manual_seed(0)
    angles = torch.arange(12) / 12 * 2 * math.pi
    ring = torch.stack([angles.cos(), angles.sin()], 1)
    paths = []
    for index in range(count):
        x, y, size, red, green, blue = torch.rand(6, generator=generator).tolist()
        radius = (0.05 + 0.12 * size) * side
        jitter = (torch.rand(12, 2, generator=generator) - 0.5) * 0.5
        points = (torch.tensor([x, y]) * side + radius * (ring + jitter)).requires_grad_()
        fill = paint(red, green, blue, dtype=torch.float32)
        fill.color.requires_grad_()
        fill.opacity.requires_grad_()
        paths.append(Path(id=f"p{index}", subpaths=(Subpath(points=points, closed=True),), fill=fill))
    return Scene(view_box=(0, 0, side, side), size=(side, side), paths=tuple(paths))


if __name__ == "__main__":
    tyro.cli(main)
