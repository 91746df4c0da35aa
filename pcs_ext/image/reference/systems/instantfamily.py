"""InstantFamily (Kim et al. 2024, arXiv 2404.19427): several people in one picture, each in a place of its own.

Of each photo a global vector and local ones become tokens, which are stacked behind the prompt's (*multimodal embedding
stack*). In every text cross-attention one softmax goes over the stack, and *masked*: words are open to all cells, a
person's tokens to those of that person's place.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters import CrossAttentionAdapter, CrossAttentionConfig
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import AbstractReferenceAdapter, Reading, check_context, context_width
from pcs_ext.image.reference.boxes import cells_in, known_boxes
from pcs_ext.image.reference.own_maps import texts_pairs
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning, Decoupled


@config
class InstantFamilyConfig:
    """A stack of global and local tokens."""

    kind: Literal["instantfamily"] = "instantfamily"
    """Tag in JSON."""
    tokens: int = 4
    """That the global vector becomes. Ours: the paper's is not known here."""
    unplaced: float = 0.1
    """Share of training pairs whose boxes are kept back, so that a person is open to all cells. Ours."""

    def __post_init__(self) -> None:
        if self.tokens < 1 or not 0 <= self.unplaced <= 1:
            raise ConfigError(f"tokens must be at least 1 and unplaced a share, got {self.tokens} and {self.unplaced}.")


class InstantFamily(AbstractReferenceAdapter):
    """Both maps, and the base's keys and values, through which the whole stack goes.

    Differs from InstantFamily in that the vectors are those of any image encoder, class token and patches of its last
    layer, where the paper has a face recogniser's embedding and feature map; that places are boxes; and that the
    ControlNet which poses faces there is left out. Which weights of the denoiser learn is not known here.

    Args:
        config: of the adapter.
        width: of the image encoder's vectors.
        context: of text states.
    """

    sees: Sees = "layers"
    depths = (1.0,)
    asks_masks = True
    asks_boxes = True
    several = True

    def __init__(self, config: InstantFamilyConfig, width: int, context: int) -> None:
        super().__init__()
        self.config, self.width, self.context, self.unplaced = config, width, context, config.unplaced
        self.whole = nn.Linear(width, config.tokens * context)
        self.local = nn.Linear(width, context)
        self.norm = nn.LayerNorm(context)
        self.inside = (CrossAttentionAdapter("reference_maps", CrossAttentionConfig()),)

    @classmethod
    def untrained(
        cls, config: InstantFamilyConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "InstantFamily":
        """Keys and values are the base's."""
        return cls(config, reading.width, context_width(backbone))

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("instantfamily", self.context, backbone)

    def stacked(self, vectors: Tensor) -> Tensor:
        """Vectors of pictures, the global one first, `... k width` -> tokens `... tokens+k-1 context`."""
        whole = self.whole(vectors[..., 0, :]).unflatten(-1, (self.config.tokens, self.context))
        return self.norm(torch.cat([whole, self.local(vectors[..., 1:, :])], dim=-2))

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Who is said no box is open to all cells."""
        told, shown = asked.encoded(), asked.shown
        there = asked.seen[:, None] & self._persons(asked)
        if not there.any():
            return told
        tokens = self.stacked(shown.to(self.norm.weight).sight.features[:, :, 0])
        given = torch.zeros(*there.shape, 4) if shown.boxes is None else shown.boxes.float()
        boxes = given.to(tokens.device)
        cells = torch.where(known_boxes(boxes)[..., None, None], cells_in(boxes, *asked.grid), 1.0)
        where = (cells * there[..., None, None]).repeat_interleave(tokens.shape[2], dim=1)
        pairs = texts_pairs(asked.backbone, tokens.flatten(1, 2))
        counted = asked.scale * there.any(1).to(tokens)
        return told.beside(Decoupled(pairs=pairs, where=where, joint=counted))

    def _persons(self, asked: Asked) -> Tensor:
        """`b r` bool: which pictures show somebody; albums of fewer people fill up with none."""
        rows, count = asked.shown.sight.features.shape[:2]
        nouns = asked.shown.nouns
        known = [[bool(noun) for noun in own] for own in nouns] if nouns else [[True] * count] * rows
        return torch.tensor(known, device=asked.backbone.device)
