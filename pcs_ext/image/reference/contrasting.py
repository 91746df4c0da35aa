"""Vectors of one subject drawn together and those of others apart, over a batch of pairs."""

import torch
import torch.nn.functional as F
from torch import Tensor


def cosines_of(anchors: Tensor, others: Tensor) -> Tensor:
    """Cosines of `a d` and `o d`, `a o`, in float32 whatever autocast says: a temperature makes much of a little."""
    with torch.autocast(anchors.device.type, enabled=False):
        return F.normalize(anchors.float(), dim=-1) @ F.normalize(others.float(), dim=-1).T


def contrasted(anchors: Tensor, others: Tensor, alike: Tensor, temperature: float, *, same: bool = False) -> Tensor:
    """InfoNCE with several positives, 0-d: the mean over anchors of -log of the share that the positives have.

    Anchors without a positive, or without a negative, do not count; 0 where none counts.

    Args:
        anchors: `a d`.
        others: `o d`.
        alike: `a o` bool, which of the others show what the anchor shows.
        temperature: divides the cosines.
        same: anchors and others are the same vectors, and none is its own positive.
    """
    cosines = cosines_of(anchors, others)
    own = torch.eye(len(anchors), dtype=torch.bool, device=alike.device) if same else torch.zeros_like(alike)
    logits, positive = (cosines / temperature).masked_fill(own, -torch.inf), alike & ~own
    counts = positive.any(1) & (~alike).any(1)
    if not bool(counts.any()):
        return 0 * cosines.sum()
    kept, chosen = logits[counts], positive[counts]
    return (kept.logsumexp(1) - kept.masked_fill(~chosen, -torch.inf).logsumexp(1)).mean()
