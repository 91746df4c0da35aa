"""Scenes and reference pictures for the tests of vector art."""

import io
import math

import numpy as np
import pytest
import resvg_py
import torch
from PIL import Image
from torch import Tensor

from pcs_ext.svg.vector.scene import Path, Scene, Subpath, paint

torch.set_num_threads(1)


def reference(svg: bytes, side: int, oversample: int = 1) -> Tensor:
    """resvg's picture `3 side side` in [0, 1] on white, box-filtered from a larger one."""
    png = resvg_py.svg_to_bytes(svg_string=svg.decode(), width=side * oversample, background="#ffffff")
    levels = np.array(Image.open(io.BytesIO(png)).convert("RGB"))
    large = torch.from_numpy(levels).permute(2, 0, 1).double() / 255
    return torch.nn.functional.avg_pool2d(large[None], oversample)[0]


def circle(x: float, y: float, radius: float, segments: int = 4) -> Tensor:
    """Control points of a circle, float64."""
    handle = 4 / 3 * math.tan(math.pi / (2 * segments))
    points = []
    for step in range(segments):
        for angle, ahead in ((0, 0.0), (0, handle), (1, -handle)):
            phi = 2 * math.pi * (step + angle) / segments
            points.append(
                (
                    x + radius * (math.cos(phi) - ahead * math.sin(phi)),
                    y + radius * (math.sin(phi) + ahead * math.cos(phi)),
                )
            )
    return torch.tensor(points, dtype=torch.float64)


def blobs(count: int, side: float, seed: int, *, opacity: float = 1.0) -> Scene:
    """Wobbly filled circles in random colours."""
    generator = torch.Generator().manual_seed(seed)
    paths = []
    for index in range(count):
        x, y, size, red, green, blue = torch.rand(6, generator=generator).tolist()
        points = circle(x * side, y * side, (0.05 + 0.12 * size) * side)
        points = points + (torch.rand(points.shape, generator=generator) - 0.5) * 0.06 * side
        shape = Subpath(points=points, closed=True)
        paths.append(Path(id=f"blob-{index}", subpaths=(shape,), fill=paint(red, green, blue, opacity)))
    return Scene(view_box=(0, 0, side, side), size=(side, side), paths=tuple(paths))


@pytest.fixture
def scene() -> Scene:
    """Sixteen opaque blobs on 96 units."""
    return blobs(16, 96, 3)
