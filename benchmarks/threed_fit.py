"""Fit a field to 48 true views of a toy.

`python -m benchmarks.threed_fit [PICTURE.png]` prints JSON and draws a picture.
"""

import json
import sys
import time

import torch
from PIL import Image
from torch import Tensor

from pcs_ext.threed.field_fit import fit_field, psnr
from pcs_ext.threed.fields import VoxelField
from pcs_ext.threed.mesh import extract_mesh
from pcs_ext.threed.render import RenderConfig, Views, render_views
from tests.support.toy_views import toy_views


def main() -> None:
    """Fit, measure, draw."""
    torch.set_num_threads(1)
    cameras, images, _ = toy_views("rex", 48, 64, 0)
    held_out, truth, world = toy_views("rex", 12, 64, 99)
    field, clock, start = VoxelField(), time.perf_counter(), time.process_time()
    for state in fit_field(field, cameras, images):
        if state.step % 100 == 0:
            print(json.dumps({"step": state.step, **state.losses}), file=sys.stderr, flush=True)
    seconds, wall = time.process_time() - start, time.perf_counter() - clock
    views = render_views(field, held_out, 64, 64, RenderConfig(normals=True))
    solid = views.opacity > 0.5
    both = solid & world.mask
    mesh = extract_mesh(field)
    row = {
        "psnr_db": psnr(views.rgb, truth),
        "silhouette_iou": float(both.sum() / (solid | world.mask).sum()),
        "median_depth_error": float((views.depth - world.depth)[both].abs().median()),
        "cpu_seconds": seconds,
        "wall_seconds": wall,
        "faces": len(mesh.faces),
        "watertight": bool(mesh.is_watertight),
        "volume": float(mesh.volume),
    }
    print(json.dumps(row))
    if len(sys.argv) > 1:
        _picture(views, truth, slice(0, 3)).save(sys.argv[1])


def _picture(views: Views, truth: Tensor, rows: slice) -> Image.Image:
    """A row per view: true view, fitted view, depth (near is bright), normals."""
    assert views.normals is not None
    cover = views.opacity[rows, None]
    near = ((6.2 - views.depth[rows, None]) / 2).clamp(0, 1).expand(-1, 3, -1, -1)
    over = [near * cover + (1 - cover), (views.normals[rows] * 0.5 + 0.5 * cover) + (1 - cover)]
    columns = torch.cat([truth[rows], views.rgb[rows], *over], -1)
    pixels = torch.cat(list(columns), 1).clamp(0, 1).permute(1, 2, 0).mul(255).round().byte().numpy()
    return Image.fromarray(pixels).resize((768, 576), Image.Resampling.NEAREST)


if __name__ == "__main__":
    main()
