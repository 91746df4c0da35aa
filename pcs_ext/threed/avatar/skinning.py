"""Skin that follows bones: linear blending by the distance to the capsules."""

import torch
from torch import Tensor

from pcs_ext.threed.avatar.skeleton import NAMES, Bones
from pcs_ext.threed.body_template import PARTS, capsule_distance

JOINTS_PER_POINT = 4
"""What glTF has room for in one set."""
_REACH = 0.05
"""World units over which the pull of a bone falls by a factor of e."""


def skin_weights(points: Tensor) -> Tensor:
    """How much each bone moves world points `n 3` of the standing body: `n j`, at most four above 0, adding up to 1.

    A bone's pull is exp(-distance to its capsule / 0.05); ours, measured on nothing.
    """
    by_name = {name: capsule_distance(points, start, end, radius) for name, start, end, radius in PARTS}
    distance = torch.stack([by_name[name] for name in NAMES], 1)
    pull = -(distance - distance.amin(1, keepdim=True)) / _REACH
    kept = pull.topk(JOINTS_PER_POINT, dim=1).indices
    weights = torch.zeros_like(pull).scatter(1, kept, torch.softmax(pull.gather(1, kept), 1))
    # What is below a thousandth moves nothing that one could see, and would couple hands to hips.
    weights = torch.where(weights < 1e-3, torch.zeros_like(weights), weights)
    return weights / weights.sum(1, keepdim=True)


def skinned(points: Tensor, weights: Tensor, bones: Bones) -> Tensor:
    """World points `n 3` of the standing body, moved by linear blend skinning: `b n 3`.

    Args:
        points: `n 3`.
        weights: `n j` of `skin_weights`.
        bones: of `b` bodies.
    """
    moved = torch.stack([bones.carry(joint, points) for joint in range(weights.shape[1])], 2)
    return (moved * weights[None, :, :, None]).sum(2)
