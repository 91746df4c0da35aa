"""The subjects of one scene: where each stands, in which words, and what its own weights predict there."""

import dataclasses
from collections.abc import Sequence

import torch
from torch import Tensor

from pcs_ext.image.adapters import injected
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.attention import attention_program
from pcs_ext.image.attention_edits import on_cells
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.edits.boxes import Box
from pcs_ext.image.edits.cones_2 import Cones2Config, LayoutBias, biased
from pcs_ext.image.sample import Predict
from pcs_ext.image.types import Conditioning

SHUT = -1e4
"""Added to scores that shall become no attention at all; finite in half precision."""


@dataclasses.dataclass(frozen=True)
class Member:
    """One subject of the scene."""

    adapters: Sequence[AbstractAdapter]
    """With what it learned, not injected."""
    prompt: str
    """The scene in this subject's words, the others as plain nouns."""
    own: Sequence[int]
    """Tokens of this subject's words in it."""
    others: Sequence[int]
    """Tokens of the others' nouns in it."""
    noun: Sequence[int]
    """Tokens of this subject's noun in the scene's plain prompt."""
    box: Box | None = None
    """Its region; None: where the base draws its noun."""


@dataclasses.dataclass(frozen=True)
class Composed:
    """One picture and how it came about."""

    picture: Tensor
    """`1 3 h w` in [-1, 1]."""
    regions: Tensor
    """`members h w` of latent cells, in [0, 1]; all zeros for one that was not found."""
    first: Tensor | None = None
    """A first pass like `picture`, for methods that have one."""


class Player:
    """A member in its region: what its own weights predict there.

    Args:
        backbone: without adapters.
        member: who.
        region: `1 h w` of latent cells, zeros and ones.
        negative_prompt: what it stays away from.
        guided: whether predictions are asked for in pairs `[negative, positive]`.
        strength: scale of its adapters, 1 as trained.
        layout: Cones 2's bias on its words, where it has a box.
    """

    def __init__(
        self,
        backbone: AbstractBackbone,
        member: Member,
        region: Tensor,
        *,
        negative_prompt: str,
        guided: bool,
        strength: float,
        layout: Cones2Config,
    ) -> None:
        self.backbone, self.member, self.region = backbone, member, region[None].to(backbone.device)
        for adapter in member.adapters:
            adapter.set_scale(strength)
        size = (region.shape[-2], region.shape[-1])
        negative = negative_prompt if guided else None
        self.conditioning = encoded(backbone, member, negative, size)
        self._biased: Predict = self._among_others
        if member.box is not None:
            bias = LayoutBias(backbone, [member.box], [member.own], size, layout, rows=[int(guided)])
            self._biased = biased(backbone, bias)(self._among_others)

    def predict(self, latents: Tensor, timesteps: Tensor) -> Tensor:
        """The denoiser's output under this member's weights and words, like `latents`: `[negative, positive]`."""
        with injected(self.backbone, *self.member.adapters):
            return self._biased(latents, timesteps, self.conditioning)

    def _among_others(self, latents: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        """With the others' words shut: behind the bias, which is measured in the scores' spread, and asked of the
        backbone as it is now, for adapters that change predictions."""
        with attention_program(self.backbone, self._shut, at="scores"):
            return self.backbone.predict(latents, timesteps, conditioning)

    def _shut(self, path: str, scores: Tensor) -> Tensor:
        """Inside of the region the others' words are not looked at; only the positive row has them."""
        inside = on_cells(self.region, scores.shape[-2]).to(scores) > 0
        last = torch.where(inside & named(self.member.others, scores), scores[-1:] + SHUT, scores[-1:])
        return torch.cat([scores[:-1], last])


def encoded(
    backbone: AbstractBackbone, member: Member, negative_prompt: str | None, size: tuple[int, int]
) -> Conditioning:
    """The member's prompt as its own words and text encoder have it, behind a negative one unless that is None, for
    latents of `size` (rows, columns)."""
    pixels = (size[0] * backbone.vae_factor, size[1] * backbone.vae_factor)
    with injected(backbone, *member.adapters):
        return backbone.encode_pair(negative_prompt, member.prompt, size=pixels)


def named(positions: Sequence[int], scores: Tensor) -> Tensor:
    """Which keys of scores `... keys` are those tokens, `keys` bool."""
    found = torch.zeros(scores.shape[-1], dtype=torch.bool, device=scores.device)
    found[list(positions)] = True
    return found
