"""Several shadings of one picture, each made for a thing or the ground, and how they become one.

The layers of MIGC (Zhou et al. 2024, arXiv 2402.05408) in one text cross-attention.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.image.backbones.cpu_attention import attend
from pcs_ext.image.backbones.joint import in_heads, side_by_side
from pcs_ext.image.reference.boxes import BoxFeatures

_HIDDEN = 512
"""Inside the map of a box (the released code's)."""
_REDUCED = 16
"""By how much the channel attention narrows (CBAM's, arXiv 1807.06521)."""
_KERNEL = 7
"""Of the attention to places, likewise."""


class EnhancementAttention(nn.Module):
    """Cells ask a thing's description and its box, one token each (section 3.3).

    Args:
        width: of the cells.
        context: of text states.
        heads: of the attention.
    """

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = fitting(width, heads)
        self.features = BoxFeatures()
        self.norm = nn.LayerNorm(width)
        self.place = nn.Sequential(
            nn.Linear(self.features.width, _HIDDEN), nn.SiLU(),
            nn.Linear(_HIDDEN, _HIDDEN), nn.SiLU(),
            nn.Linear(_HIDDEN, context),
        )  # fmt: skip
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.Linear(width, width)

    def forward(self, cells: Tensor, described: Tensor, boxes: Tensor) -> Tensor:
        """`b n width`, `b r context` and `b r 4` -> `b r n width`."""
        told = torch.stack([described, self.place(self.features(boxes).to(described))], dim=2)
        query = in_heads(self.to_q(self.norm(cells)), self.heads)
        keys, values = (in_heads(x.flatten(0, 1), self.heads) for x in (self.to_k(told), self.to_v(told)))
        count = boxes.shape[1]
        found = attend(query.repeat_interleave(count, 0), keys, values, query.shape[-1] ** -0.5)
        return self.to_out(side_by_side(found)).unflatten(0, (-1, count))


class LayoutAttention(nn.Module):
    """A self-attention in which cells look at those that share a region with them (section 3.4).

    Args:
        width: of the cells.
        heads: of the attention.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = fitting(width, heads)
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(width, width, bias=False)
        self.to_v = nn.Linear(width, width, bias=False)
        self.to_out = nn.Linear(width, width)

    def forward(self, cells: Tensor, regions: Tensor) -> Tensor:
        """`b n width` and which cells each region has, `b k n` -> `b n width`. Every cell looks at itself."""
        shared = torch.einsum("bkn,bkm->bnm", regions, regions) > 0
        shared = shared | torch.eye(cells.shape[1], dtype=torch.bool, device=cells.device)
        query, key, value = (in_heads(layer(cells), self.heads) for layer in (self.to_q, self.to_k, self.to_v))
        scores = query.shape[-1] ** -0.5 * (query @ key.transpose(-1, -2))
        seen = scores.masked_fill(~shared[:, None], torch.finfo(scores.dtype).min).softmax(-1)
        return self.to_out(side_by_side(seen @ value))


class ChannelsAndPlaces(nn.Module):
    """Channels, then places, each times how much they matter (CBAM, Woo et al. 2018, arXiv 1807.06521).

    Args:
        channels: of the maps.
        reduced: width inside the map of channels.
    """

    def __init__(self, channels: int, reduced: int) -> None:
        super().__init__()
        self.which = nn.Sequential(nn.Linear(channels, reduced), nn.ReLU(), nn.Linear(reduced, channels))
        self.where = nn.Conv2d(2, 1, _KERNEL, padding=_KERNEL // 2, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """`b c h w` -> the same."""
        flat = maps.flatten(2)
        weights = torch.sigmoid(self.which(flat.mean(2)) + self.which(flat.amax(2)))
        maps = maps * weights[:, :, None, None]
        pooled = torch.stack([maps.amax(1), maps.mean(1)], dim=1)
        return maps * torch.sigmoid(self.where(pooled))


class ShadingAggregation(nn.Module):
    """Shadings and where each holds -> one shading, in every cell a mean of them (section 3.5).

    Args:
        width: of the shadings.
        places: how many shadings there may be.
    """

    def __init__(self, width: int, places: int) -> None:
        super().__init__()
        self.places = places
        self.enter = nn.Conv2d(width + 1, width, 1)
        self.each = ChannelsAndPlaces(width, max(1, width // _REDUCED))
        self.leave = nn.Conv2d(width, 1, 1)
        self.together = ChannelsAndPlaces(places, places)

    def shares(self, shadings: Tensor, regions: Tensor, present: Tensor) -> Tensor:
        """How much each counts in every cell, `b k n`, summing to 1 over those that are present.

        Args:
            shadings: `b k n width`: the ground's, the things', the layout's.
            regions: where each holds, `b k rows columns`.
            present: `b k` bool; the first and the last are.
        """
        count, grid = shadings.shape[1], regions.shape[-2:]
        # One more that is nothing at all stands for those that are not there.
        drawn = F.pad(shadings, (0, 0, 0, 0, 0, 1)).transpose(2, 3).unflatten(3, grid)
        whole = torch.cat([drawn, F.pad(regions, (0, 0, 0, 0, 0, 1)).unsqueeze(2).to(drawn)], dim=2)
        scores = self.leave(self.each(self.enter(whole.flatten(0, 1)))).unflatten(0, (-1, count + 1))[:, :, 0]
        nothing = scores[:, -1:]
        scores = torch.where(present[:, :, None, None], scores[:, :-1], nothing)
        spare = nothing.expand(-1, self.places - count, -1, -1)
        seen = self.together(torch.cat([scores[:, :-1], spare, scores[:, -1:]], dim=1))
        kept = torch.cat([seen[:, : count - 1], seen[:, -1:]], dim=1).flatten(2)
        return kept.masked_fill(~present[:, :, None], torch.finfo(kept.dtype).min).softmax(1)

    def forward(self, shadings: Tensor, regions: Tensor, present: Tensor) -> Tensor:
        """-> `b n width`; see `shares`."""
        return (self.shares(shadings, regions, present).unsqueeze(-1) * shadings).sum(1)


def fitting(width: int, heads: int) -> int:
    """As many heads as divide a width, at most so many."""
    return next(count for count in range(heads, 0, -1) if width % count == 0)
