"""Whether a clip moves as another one does, whoever moves in it and wherever that is in the picture."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.video.evaluate.flow import REACH, ClipFlow, block_flow

_SIDE = 64
"""Clips are made this small, along their shorter side, before anything is matched."""
_MOVING = 0.5
"""Pixels per frame from which on a point counts as moving."""
_LEAST_AREA = 0.01
"""Share of the picture that must move for a motion to be told from noise."""


def motion_fidelity(clip: Tensor, reference: Tensor | ClipFlow) -> float:
    """Cosine of two clips' motion signatures, in [-1, 1].

    1: the same motion; 0: unrelated, or nothing moves; -1: the opposite. Speed does not count, its course over time
    does.

    Differs from the score by tracklets (Yatim et al. 2023, arXiv 2311.17009, as noted in the field's benchmarks): that
    needs a trained tracker. What moves is described as a whole instead of point by point.

    Args:
        clip: `f 3 h w` in [-1, 1].
        reference: a clip of as many frames, or its flow where that is known better than by matching.

    Raises:
        ValueError: other counts of frames.
    """
    wanted = motion_signature(reference if isinstance(reference, ClipFlow) else clip_flow(reference))
    got = motion_signature(clip_flow(clip))
    if got.shape != wanted.shape:
        raise ValueError(f"the clip has {len(got) + 1} frames, the reference {len(wanted) + 1}; compare equal lengths.")
    return float(F.cosine_similarity(got.flatten(), wanted.flatten(), dim=0, eps=1e-8))


def clip_flow(clip: Tensor) -> ClipFlow:
    """Flow of a clip `f 3 h w` in [-1, 1] of any size, in pixels of the clip made small."""
    height, width = clip.shape[-2:]
    if (shorter := min(height, width)) > _SIDE:
        size = (round(height * _SIDE / shorter), round(width * _SIDE / shorter))
        clip = F.interpolate(clip.float(), size, mode="bilinear", antialias=True, align_corners=False)
    return block_flow(clip)


def motion_signature(flow: ClipFlow) -> Tensor:
    """How what moves is moved from frame to frame, `f-1 6` in pixels: the affine motion of least squares.

    Per pair of frames: its translation (x, y), and what its x and y change by over one root mean square radius of it to
    the right and down: together that says growing, turning and shearing. Zero where too little moves.
    """
    moving = flow.trusted & (flow.displacement.norm(dim=1) > _MOVING)
    # What goes farther than blocks are looked for would count in a known flow and never in a matched one.
    moving &= flow.displacement.abs().amax(1) <= REACH
    pairs = zip(flow.displacement.double(), moving, strict=True)
    return torch.stack([_affine(displacement, where) for displacement, where in pairs])


def _affine(displacement: Tensor, where: Tensor) -> Tensor:
    """Six numbers of the motion `2 h w` of the points `h w` that move."""
    if where.double().mean() < _LEAST_AREA:
        return displacement.new_zeros(6)
    rows, columns = where.nonzero(as_tuple=True)
    places = torch.stack([columns, rows], 1).double()
    places = places - places.mean(0)
    places = places / (places.square().sum(1).mean() / 2).sqrt().clamp_min(1e-6)
    basis = torch.cat([torch.ones_like(places[:, :1]), places], 1)
    # A little ridge: a line of points says nothing of what lies beside it.
    normal = basis.T @ basis / len(basis) + 1e-3 * torch.eye(3, dtype=basis.dtype, device=basis.device)
    moved = displacement[:, where].T
    fit = torch.linalg.solve(normal, basis.T @ moved / len(basis))
    return torch.cat([fit[0], fit[1:].flatten()])
