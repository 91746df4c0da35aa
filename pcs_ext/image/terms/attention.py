"""Where a learned word looks, against where its subject is."""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.image.adapters.vocabulary import token_positions
from pcs_ext.image.terms.base import AbstractTerm, Step


@config
class AttentionConfig:
    """Cross-attention maps of the learned words, held to the masks of their subjects."""

    kind: Literal["attention"] = "attention"
    """Tag of this term in JSON."""
    form: Literal["match", "outside", "both"] = "match"
    """`match`: squared difference of map and mask (Break-A-Scene, arXiv 2305.16311, eq. 3). `outside`: the mean of the
    map where the mask is not (Mix-of-Show, arXiv 2305.18292). `both`: squared distance to 1 inside plus that to 0
    outside, each a mean over its own cells, so that a small subject counts as much as what is around it: the positive
    and negative guidance of CustomVideo (arXiv 2401.09962), whose exact form is not known here. Maps are divided by
    their maximum first."""
    side: int = 16
    """The coarsest maps of at least so many cells per side are averaged; 16 in both papers' code at 512 pixels, where
    SDXL has 32."""
    weight: float = 1e-2
    """Both papers'."""
    elsewhere: tuple[str, ...] = ()
    """Adapters whose words are held to where no subject is, by name: those of backgrounds."""


class AttentionTerm(AbstractTerm):
    """Sum over words, mean over the photos that show them. Photos without masks, and class images, do not count.

    Differs from Mix-of-Show's code, which takes all resolutions: maps of one size are averaged.
    """

    name = "attention"

    def __init__(self, config: AttentionConfig) -> None:
        self.config, self.maps_side = config, config.side

    def __call__(self, step: Step) -> Tensor:
        assert step.maps is not None, "the objective records the maps"
        maps = step.maps.maps()
        masks = word_masks(step, maps)
        total = maps.new_zeros(())
        if masks is None:
            return total
        for index, (name, adapter) in enumerate(step.words().items()):
            at = token_positions(step.backbone, adapter.tokens, step.batch.captions)
            shown = at.any(1)
            if step.batch.is_prior is not None:
                shown = shown & ~step.batch.is_prior.to(shown.device)
            if not shown.any():
                continue
            away = name in self.config.elsewhere
            mask = 1 - masks.amax(1) if away else masks[:, min(index, masks.shape[1] - 1)]
            total = total + attention_errors(maps[shown], at[shown], mask[shown], self.config.form).mean()
        return self.config.weight * total


def word_masks(step: Step, maps: Tensor) -> Tensor | None:
    """`b words rows columns` in [0, 1], at the cells of the maps; None if no photo has a mask."""
    masks = step.batch.part_masks if step.batch.part_masks is not None else step.batch.masks
    if masks is None:
        return None
    return F.interpolate(masks.to(step.backbone.device), size=maps.shape[-2:], mode="area")


def attention_errors(maps: Tensor, at: Tensor, mask: Tensor, form: Literal["match", "outside", "both"]) -> Tensor:
    """One number per photo, `b`.

    Args:
        maps: `b n side side`, probabilities.
        at: `b n` bool, at least one true in every row: the word's tokens, whose maps are averaged.
        mask: `b side side` in [0, 1].
        form: see `AttentionConfig`.
    """
    weights = at.to(maps.dtype) / at.sum(1, keepdim=True)
    looks = torch.einsum("bn,bnhw->bhw", weights, maps)
    looks = looks / looks.amax((1, 2), keepdim=True).clamp_min(1e-8)
    if form == "match":
        return (looks - mask).square().mean((1, 2))
    outside = 1 - mask
    if form == "both":
        return _weighted((looks - 1).square(), mask) + _weighted(looks.square(), outside)
    return _weighted(looks, outside)


def _weighted(values: Tensor, weights: Tensor) -> Tensor:
    """Weighted mean over cells, `b h w` each -> `b`; 0 where no cell counts."""
    return (values * weights).sum((1, 2)) / weights.sum((1, 2)).clamp_min(1e-6)
