"""A standing body of capsules, two units tall, facing -y: the suite's own, as registered body models may not ship."""

import torch
from torch import Tensor

from pcs_ext.threed.cameras import Vector

PARTS: tuple[tuple[str, Vector, Vector, float], ...] = (
    ("head", (0.0, -0.02, 1.74), (0.0, 0.0, 1.84), 0.17),
    ("neck", (0.0, 0.0, 1.45), (0.0, 0.0, 1.65), 0.07),
    ("chest", (-0.12, 0.0, 1.38), (0.12, 0.0, 1.38), 0.16),
    ("belly", (0.0, 0.0, 1.05), (0.0, 0.0, 1.35), 0.17),
    ("hips", (-0.09, 0.0, 0.98), (0.09, 0.0, 0.98), 0.14),
    ("left arm", (0.26, 0.0, 1.42), (0.45, 0.0, 1.1), 0.07),
    ("left forearm", (0.45, 0.0, 1.1), (0.58, -0.04, 0.86), 0.06),
    ("right arm", (-0.26, 0.0, 1.42), (-0.45, 0.0, 1.1), 0.07),
    ("right forearm", (-0.45, 0.0, 1.1), (-0.58, -0.04, 0.86), 0.06),
    ("left thigh", (0.11, 0.0, 0.95), (0.14, 0.0, 0.5), 0.1),
    ("left shin", (0.14, 0.0, 0.5), (0.16, 0.02, 0.1), 0.075),
    ("left foot", (0.16, 0.02, 0.06), (0.18, -0.2, 0.05), 0.06),
    ("right thigh", (-0.11, 0.0, 0.95), (-0.14, 0.0, 0.5), 0.1),
    ("right shin", (-0.14, 0.0, 0.5), (-0.16, 0.02, 0.1), 0.075),
    ("right foot", (-0.16, 0.02, 0.06), (-0.18, -0.2, 0.05), 0.06),
)
"""Name, ends and radius of every capsule, world units."""
HEAD: Vector = (0.0, 0.0, 1.76)
"""What close-ups look at."""
_BLEND = 0.03
"""World units over which parts flow into one another."""


def body_distance(points: Tensor) -> Tensor:
    """Signed distance `n` of world points `n 3` to the body, negative inside; about true, shorter where parts blend.

    Smooth minimum by log-sum-exp over the capsules.
    """
    parts = torch.stack([capsule_distance(points, start, end, radius) for _, start, end, radius in PARTS])
    return -_BLEND * torch.logsumexp(-parts / _BLEND, 0)


def capsule_distance(points: Tensor, start: Vector, end: Vector, radius: float) -> Tensor:
    """Signed distance `n` of world points `n 3` to one capsule."""
    a, b = points.new_tensor(start), points.new_tensor(end)
    along = ((points - a) @ (b - a) / (b - a).square().sum()).clamp(0, 1)
    return (points - a - along[:, None] * (b - a)).norm(dim=1) - radius
