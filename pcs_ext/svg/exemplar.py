"""An exemplar as pictures to learn from: other sizes, places and grounds, so that the drawing is learned and not its
page."""

import dataclasses
from pathlib import Path as FilePath

import torch
from torch import Tensor

from pcs_ext.image.levels import to_pil
from pcs_ext.image.png import write_png
from pcs_ext.runtime import generator_for
from pcs_ext.svg.vector.render import render
from pcs_ext.svg.vector.scene import Scene


def on_canvas(scene: Scene, side: int) -> Tensor:
    """The exemplar on a white square, `3 side side` in [0, 1]: the canvas on which everything is compared."""
    return render(scene, side, side).detach().float().clamp(0, 1)


def write_variants(
    scene: Scene, folder: FilePath, count: int, side: int, least_size: float, seed: int
) -> list[FilePath]:
    """Pictures `00.png`, ... of the exemplar; the first is as it is, on white. The same seed gives the same files.

    Args:
        scene: the exemplar.
        folder: is made.
        count: how many.
        side: of the squares, pixels.
        least_size: smallest size, of the canvas, in (0, 1].
        seed: of sizes, places and grounds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for index in range(count):
        size, x, y, *tint = torch.rand(6, generator=generator_for(seed, "variant", index)).tolist()
        size, ground = (
            least_size + (1 - least_size) * size,
            (0.6 + 0.4 * tint[0], 0.6 + 0.4 * tint[1], 0.6 + 0.4 * tint[2]),
        )
        if index == 0:
            size, ground = 1.0, (1.0, 1.0, 1.0)
        drawn = render(_smaller(scene, size, x, y), side, side, background=ground).detach()
        paths.append(folder / f"{index:02d}.png")
        write_png(paths[-1], to_pil(drawn.float().clamp(0, 1) * 2 - 1))
    return paths


def _smaller(scene: Scene, size: float, x: float, y: float) -> Scene:
    """The same drawing on a page that is larger by 1 / size, at the place x, y in [0, 1] of the free room."""
    left, top, width, height = scene.view_box
    page = max(width, height)
    left, top = left - (page - width) / 2, top - (page - height) / 2
    room = page / size - page
    return dataclasses.replace(scene, view_box=(left - x * room, top - y * room, page / size, page / size))
