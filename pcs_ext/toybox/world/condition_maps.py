"""The truth behind pictures as condition maps: what detectors would have to guess of photos."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pcs_ext.image.edges import canny
from pcs_ext.toybox.world.camera import camera_table
from pcs_ext.toybox.world.render import Rendered
from pcs_ext.toybox.world.scene import Scene

WorldMap = Literal["edges", "depth", "normals", "segmentation"]

_PALETTE = 61
"""Parts whose colours differ; a toy has fewer."""


def world_maps(kind: WorldMap, seen: Rendered, scenes: Sequence[Scene]) -> Tensor:
    """Maps of `b` scenes, `b 3 h w` in [-1, 1].

    Args:
        kind: edges of the picture (Canny's), inverse depth of everything (nearest white, sky black), normals of toys
            (red right, green up, blue to the viewer, a wall behind them), or parts of toys in colours of their own.
        seen: what was rendered.
        scenes: of perspective cameras.
    """
    if kind == "edges":
        # Of the picture as it is written, in 8-bit levels, so that they are what is found in the file.
        levels = ((seen.rgb.clamp(-1, 1) + 1) * 127.5).round()
        return 2 * canny(levels / 255 * 2 - 1).expand(-1, 3, -1, -1) - 1
    made = {"depth": _depth, "segmentation": _segmentation}
    return made[kind](seen) if kind in made else _normals(seen, scenes)


def _depth(seen: Rendered) -> Tensor:
    inverse = torch.where(seen.depth.isfinite(), 1 / seen.depth.clamp_min(1e-6), torch.zeros_like(seen.depth))
    near = inverse.amax((1, 2), keepdim=True)
    return (2 * inverse / near.clamp_min(1e-9) - 1)[:, None].expand(-1, 3, -1, -1)


def _normals(seen: Rendered, scenes: Sequence[Scene]) -> Tensor:
    axes = camera_table([scene.camera for scene in scenes], seen.normals.device)[:, :3, :3]
    # Rows of the table are right, up and forward; towards the viewer is backward.
    axes = axes * axes.new_tensor([1.0, 1.0, -1.0])[:, None]
    wall = seen.normals.new_tensor([0.0, 0.0, 1.0])[None, :, None, None]
    return torch.where(seen.mask[:, None], torch.einsum("bij,bjhw->bihw", axes, seen.normals), wall)


def _segmentation(seen: Rendered) -> Tensor:
    """Hues a golden angle apart, so that parts that lie beside each other differ; a second toy's are darker."""
    numbers = torch.arange(_PALETTE, dtype=torch.float32)
    hues = numbers[:, None] * 0.618034 + torch.tensor([0.0, 1 / 3, 2 / 3])
    palette = torch.cos(2 * torch.pi * hues)
    colours = palette[seen.part_ids.clamp_min(0) % _PALETTE].permute(0, 3, 1, 2)
    colours = torch.where(seen.object_ids[:, None] == 1, (colours - 1) / 2, colours)
    return torch.where(seen.mask[:, None], colours, torch.full_like(colours, -1.0))
