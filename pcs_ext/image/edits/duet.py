"""Two branches of one sample: the base in plain words, and a learned subject that takes over from it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.attention_edits import AttentionEdit, branch_rows, edited, progress_at
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.sample import Predict
from pcs_ext.image.types import Conditioning

BASE, SUBJECT = 0, 1
"""Branches, in the order of the two prompts that are sampled."""


def set_scale(adapters: Sequence[AbstractAdapter], scale: float) -> None:
    """Of all the adapters: 0 is the plain base, 1 the subject as trained."""
    for adapter in adapters:
        adapter.set_scale(scale)


def duet(
    backbone: AbstractBackbone,
    adapters: Sequence[AbstractAdapter],
    told: Conditioning,
    base: Sequence[AttentionEdit],
    subject: Sequence[AttentionEdit],
    *,
    guided: bool,
    last: float = 1.0,
):
    """A `SampleHooks.predict` for two prompts: the first by the plain base, the second with the adapters at work.

    Args:
        backbone: with the adapters injected.
        adapters: the subject's.
        told: what the base is told, `[negative, positive]` or the positive alone, encoded without the adapters.
        base, subject: edits of their passes; the base's comes first in every step.
        guided: whether predictions are asked for in pairs.
        last: share of the sampling after which the base's branch is no longer needed and stands still.
    """
    plain, own = branch_rows(BASE, 2, guided=guided), branch_rows(SUBJECT, 2, guided=guided)

    def wrap(predict: Predict) -> Predict:
        by_base, by_subject = edited(backbone, base)(predict), edited(backbone, subject)(predict)

        def both(latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            result = torch.zeros_like(latents)
            if progress_at(backbone, timesteps.flatten()[0]) < last:
                set_scale(adapters, 0.0)
                try:
                    result[plain] = by_base(latents[plain], timesteps[plain], told).to(result.dtype)
                finally:
                    set_scale(adapters, 1.0)
            result[own] = by_subject(latents[own], timesteps[own], conditioning[own]).to(result.dtype)
            return result

        return both

    return wrap
