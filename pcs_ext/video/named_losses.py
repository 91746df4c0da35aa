"""What a pass saw, and the losses on it by the names that recipes use."""

import dataclasses

from torch import Tensor

from pcs_ext.video.objectives import (
    after_first_loss,
    appearance_debiased_loss,
    appearance_statistics_loss,
    clip_loss,
    motion_attention_loss,
    residual_cosine_loss,
    residual_l2_loss,
)
from pcs_ext.video.recipes.base import LossName


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pass:
    """A prediction and what losses compare it with."""

    prediction: Tensor
    """`b c f h w`."""
    target: Tensor
    """`b c f h w`."""
    anchors: Tensor
    """A frame per clip, `b`."""
    frozen: Tensor | None = None
    """Prediction of the model without adapters, for `appearance_statistics`."""
    looks: tuple[Tensor, Tensor] | None = None
    """Where the words for motion and protagonist look, `b f h w` each, for `motion_attention`."""


def named_loss(name: LossName, seen: Pass) -> Tensor:
    """The loss of that name, 0-d."""
    if name == "debiased":
        return appearance_debiased_loss(seen.prediction, seen.target, seen.anchors)
    if name == "residual_l2":
        return residual_l2_loss(seen.prediction, seen.target)
    if name in ("residual_cosine", "residual_absolute_cosine"):
        form = "signed" if name == "residual_cosine" else "absolute"
        return residual_cosine_loss(seen.prediction, seen.target, form=form)
    if name == "after_first":
        return after_first_loss(seen.prediction, seen.target)
    if name == "appearance_statistics":
        assert seen.frozen is not None, "the frozen branch predicts too"
        return appearance_statistics_loss(seen.prediction, seen.frozen)
    if name == "motion_attention":
        assert seen.looks is not None, "attention is recorded"
        return motion_attention_loss(*seen.looks)
    return clip_loss(seen.prediction, seen.target)
