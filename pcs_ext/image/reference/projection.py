"""From an image encoder's vectors to tokens as wide as text states. Tensors are named as in the published files."""

from collections.abc import Mapping
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.errors import ArtifactError

_HEAD = 64
"""Width of the resampler's heads: files do not say it, readers of them take 64."""


class LinearProjection(nn.Module):
    """One vector of a picture -> tokens: a linear map and LayerNorm (IP-Adapter, section 3.2.1).

    Args:
        width: of the vector.
        context: width of text states.
        tokens: how many.
    """

    def __init__(self, width: int, context: int, tokens: int) -> None:
        super().__init__()
        self.width, self.context, self.tokens = width, context, tokens
        self.proj = nn.Linear(width, tokens * context)
        self.norm = nn.LayerNorm(context)

    def forward(self, features: Tensor) -> Tensor:
        """`b width` -> `b tokens context`."""
        return self.norm(self.proj(features).unflatten(1, (self.tokens, self.context)))


class Resampler(nn.Module):
    """Vectors of a picture's patches -> tokens (Flamingo's Perceiver resampler, arXiv 2204.14198; IP-Adapter "plus").

    Learned queries attend to the patches and to themselves, block after block.

    Args:
        width: of the patches' vectors.
        context: width of text states.
        tokens: how many; 16 in the published files.
        inner: width inside; 768 there for Stable Diffusion 1.x, 1,280 for SDXL.
        attention: width of all heads of an attention together, a multiple of 64.
        depth: blocks; 4 there, and diffusers reads no other.
        growth: of the feed-forward networks' hidden width.
    """

    def __init__(
        self, width: int, context: int, tokens: int, *, inner: int, attention: int, depth: int, growth: int = 4
    ) -> None:
        super().__init__()
        self.width, self.context, self.tokens = width, context, tokens
        self.latents = nn.Parameter(torch.randn(1, tokens, inner) / inner**0.5)
        self.proj_in = nn.Linear(width, inner)
        self.proj_out = nn.Linear(inner, context)
        self.norm_out = nn.LayerNorm(context)
        self.layers = nn.ModuleList(
            nn.ModuleList([_PerceiverAttention(inner, attention), _feed_forward(inner, growth)]) for _ in range(depth)
        )

    def forward(self, features: Tensor, queries: Tensor | None = None) -> Tensor:
        """`b patches width` and queries in place of the learned ones, `b tokens inner` -> `b tokens context`."""
        told = self.proj_in(features)
        latents = self.latents.expand(len(features), -1, -1) if queries is None else queries
        for layer in self.layers:
            attend, feed = cast(nn.ModuleList, layer)
            latents = latents + attend(told, latents)
            latents = latents + feed(latents)
        return self.norm_out(self.proj_out(latents))


class _PerceiverAttention(nn.Module):
    def __init__(self, inner: int, attention: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(inner), nn.LayerNorm(inner)
        self.to_q = nn.Linear(inner, attention, bias=False)
        self.to_kv = nn.Linear(inner, 2 * attention, bias=False)
        self.to_out = nn.Linear(attention, inner, bias=False)

    def forward(self, told: Tensor, latents: Tensor) -> Tensor:
        told, latents = self.norm1(told), self.norm2(latents)
        keys, values = self.to_kv(torch.cat([told, latents], dim=1)).chunk(2, dim=-1)
        query, keys, values = (
            x.unflatten(2, (-1, _HEAD)).transpose(1, 2) for x in (self.to_q(latents), keys, values)
        )  # fmt: skip
        mixed = F.scaled_dot_product_attention(query, keys, values)
        return self.to_out(mixed.transpose(1, 2).flatten(2))


def _feed_forward(inner: int, growth: int) -> nn.Sequential:
    hidden = growth * inner
    return nn.Sequential(
        nn.LayerNorm(inner), nn.Linear(inner, hidden, bias=False), nn.GELU(), nn.Linear(hidden, inner, bias=False)
    )


Projection = LinearProjection | Resampler


def projection_for(state: Mapping[str, Tensor], context: int) -> Projection:
    """An untrained projection of the shape that a file's tensors (without `image_proj.`) have.

    Args:
        state: the tensors.
        context: width of text states, which tells how many tokens a linear projection makes.

    Raises:
        ArtifactError: they are of a kind that is not known here.
    """
    if "proj.weight" in state and state["proj.weight"].shape[0] % context == 0:
        rows, width = state["proj.weight"].shape
        return LinearProjection(width, context, rows // context)
    if "latents" in state and "layers.0.0.to_q.weight" in state and "layers.0.1.1.weight" in state:
        inner = state["latents"].shape[2]
        return Resampler(
            state["proj_in.weight"].shape[1],
            context,
            state["latents"].shape[1],
            inner=inner,
            attention=state["layers.0.0.to_q.weight"].shape[0],
            depth=1 + max(int(key.split(".")[1]) for key in state if key.startswith("layers.")),
            growth=state["layers.0.1.1.weight"].shape[0] // inner,
        )
    raise ArtifactError(
        f"the adapter's projection has {', '.join(sorted(state)[:4])}, ...; expected IP-Adapter's linear one "
        "(proj, norm) or the resampler of its plus form (latents, layers). Full-face and FaceID files, which need a "
        "face recogniser, are not read; take ip-adapter_* or ip-adapter-plus_*."
    )
