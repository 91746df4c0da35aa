"""The true flow of rendered clips, in the form that the measures of clips take."""

import itertools
from collections.abc import Sequence

import torch

from pcs_ext.toybox.world.flow import flow
from pcs_ext.toybox.world.scene import Scene
from pcs_ext.video.evaluate import ClipFlow


def true_flow(clip: Sequence[Scene], *, resolution: int = 64) -> ClipFlow:
    """Where every point of each frame is in the next one, as far as both show it.

    Args:
        clip: one scene at successive times of its motion.
        resolution: height of the frames in pixels.
    """
    pairs = [flow(before, before.time, after.time, resolution=resolution) for before, after in itertools.pairwise(clip)]
    return ClipFlow(
        displacement=torch.stack([pair.displacement for pair in pairs]),
        trusted=torch.stack([pair.visible for pair in pairs]),
    )
