"""Boxes of the objects in the picture, for layout control and counting."""

import dataclasses

import torch
from torch import Tensor

from pcs_ext.toybox.world.render import render
from pcs_ext.toybox.world.scene import Scene

_FINE = 256


def boxes(scene: Scene) -> Tensor:
    """Box of every object as if the others were not there, `objects 4`: left, top, right, bottom in [0, 1].

    Accurate to 1/256 of the picture. An object outside the picture has a box of zeros.
    """
    # One picture per object: what covers an object must not shrink its box.
    alone = [dataclasses.replace(scene, objects=(toy,)) for toy in scene.objects]
    masks = render(alone, resolution=_FINE, supersample=1, styled=False).mask
    return torch.stack([_box(mask) for mask in masks])


def _box(mask: Tensor) -> Tensor:
    height, width = mask.shape
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    if len(rows) == 0:
        return torch.zeros(4)
    left, right, top, bottom = columns[0] / width, (columns[-1] + 1) / width, rows[0] / height, (rows[-1] + 1) / height
    return torch.stack([left, top, right, bottom])
