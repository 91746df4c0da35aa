"""StyleAdapter (Wang et al. 2023, arXiv 2309.01770): pictures give their style, the prompt alone what is drawn.

Two cross-attentions, one of the text and one of the style, whose sum a weight in every layer balances. That things in
the pictures do not come along, the image encoder sees their patches out of order, its class token is not read, and
several pictures of one style are read together.
"""

from typing import Literal, cast

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import AbstractReferenceAdapter, Reading, check_context, context_width
from pcs_ext.image.reference.beside import PictureMaps
from pcs_ext.image.reference.query_transformer import QueryBlock
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning, Decoupled


@config
class StyleAdapterConfig:
    """A style embedding and a second path. Sizes are T2I-Adapter's style adapter's (arXiv 2302.08453, as recalled)."""

    kind: Literal["styleadapter"] = "styleadapter"
    """Tag in JSON."""
    tokens: int = 8
    """Of a style, however many pictures show it."""
    width: int = 1024
    """Of the style embedding."""
    depth: int = 3
    """Its blocks."""
    heads: int = 8
    """Of their attention."""
    balance: float = 1.0
    """Of the style's path in every layer before training. Ours."""

    def __post_init__(self) -> None:
        if min(self.tokens, self.depth, self.heads) < 1 or self.width < 1 or self.width % self.heads:
            raise ConfigError("tokens, depth and heads must be at least 1, and width a multiple of heads.")


class StyleAdapter(AbstractReferenceAdapter):
    """The style embedding, the second path's maps and the balance of the two.

    Differs from StyleAdapter in that patches are put out of order in one way, always the same, so that pictures are
    encoded once, and that other pictures of the style are shown than the one that is drawn.

    Args:
        config: of the adapter.
        width: of the image encoder's patches.
        maps: of every text cross-attention.
        context: of text states.
    """

    sees: Sees = "layers"
    depths = (1.0,)
    scrambles = True

    def __init__(self, config: StyleAdapterConfig, width: int, maps: PictureMaps, context: int) -> None:
        super().__init__()
        self.width, self.context = width, context
        self.queries = nn.Parameter(0.02 * torch.randn(1, config.tokens, config.width))
        self.enter = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.width))
        self.blocks = nn.ModuleList(QueryBlock(config.width, config.heads, looks=False) for _ in range(config.depth))
        self.leave = nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, context))
        self.maps = maps
        self.balance = nn.ParameterDict(
            {name: nn.Parameter(torch.tensor(config.balance)) for name in maps.names.values()}
        )

    @classmethod
    def untrained(
        cls, config: StyleAdapterConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "StyleAdapter":
        """Maps begin as the text's own."""
        return cls(config, reading.width, PictureMaps.like_the_texts(backbone), context_width(backbone))

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("styleadapter", self.context, backbone)

    def style(self, features: Tensor) -> Tensor:
        """Last layers of the pictures of one style, class tokens first, `b r 1 k width` -> `b tokens context`."""
        patches = self.enter(features[:, :, 0, 1:].flatten(1, 2))
        queries = self.queries.expand(len(patches), -1, -1)
        for block in self.blocks:
            queries, patches = cast(QueryBlock, block)(queries, patches, patches)
        return self.leave(queries)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Pictures of a row are read together, as one style."""
        tokens = self.style(asked.shown.to(next(self.parameters())).sight.features)
        counted = asked.scale * asked.seen.to(tokens)[:, None, None]
        pairs = {
            path: (keys, self.balance[self.maps.names[path]] * values)
            for path, (keys, values) in self.maps(tokens, counted).items()
        }
        return asked.encoded().beside(Decoupled(pairs=pairs))
