"""SSR-Encoder (Zhang et al. 2023, arXiv 2312.16272): a word asks a picture for what it names.

The encoded noun is the query of an attention over the patches of the image encoder's last layer; where it looks, values
of several layers are read, one set of tokens each. A second key and value map in every text cross-attention reads them
beside the text, as in IP-Adapter.
"""

import contextlib
from collections.abc import Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.prompt_programs import Encode
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import (
    AbstractReferenceAdapter,
    Reading,
    Terms,
    attention_widths,
    check_context,
    context_width,
)
from pcs_ext.image.reference.pairs import Pairs
from pcs_ext.image.reference.shown import Sees, Shown
from pcs_ext.image.types import Conditioning, Decoupled


@config
class SSREncoderConfig:
    """A query for patches, and maps that read what it finds."""

    kind: Literal["ssr-encoder"] = "ssr-encoder"
    """Tag in JSON."""
    heads: int = 8
    """Of the query; the released code's."""
    head_width: int = 64
    """Of each; the released code's."""
    consistency_weight: float = 1e-3
    """Of 1 minus the cosine between what is found in each layer and the query (section 3.3), summed over layers; the
    released settings'."""

    def __post_init__(self) -> None:
        if min(self.heads, self.head_width) < 1 or self.consistency_weight < 0:
            raise ConfigError(
                "heads and head_width must be at least 1 and consistency_weight not negative, got "
                f"{self.heads}, {self.head_width} and {self.consistency_weight}."
            )


class TokenToPatch(nn.Module):
    """The query: text states look for patches in the last layer, and read all layers there (section 3.2).

    Args:
        config: of the adapter.
        reading: of the image encoder.
        context: width of text states.
    """

    def __init__(self, config: SSREncoderConfig, reading: Reading, context: int) -> None:
        super().__init__()
        inner = config.heads * config.head_width
        self.heads = config.heads
        self.to_q = nn.Linear(context, inner, bias=False)
        self.to_k = nn.Linear(reading.width, inner, bias=False)
        self.to_v = nn.ModuleList(nn.Linear(reading.width, inner, bias=False) for _ in range(reading.layers))
        self.to_out = nn.ModuleList(nn.Linear(inner, context, bias=False) for _ in range(reading.layers))
        self.norm = nn.LayerNorm(context)

    def forward(self, queries: Tensor, features: Tensor) -> Tensor:
        """`b n context` and `b l k width`, the last layer last -> `b l n context`."""
        asked, told = self._split(self.to_q(queries)), self._split(self.to_k(features[:, -1]))
        found = []
        for index, (to_v, to_out) in enumerate(zip(self.to_v, self.to_out, strict=True)):
            mixed = F.scaled_dot_product_attention(asked, told, self._split(to_v(features[:, index])))
            found.append(to_out(mixed.transpose(1, 2).flatten(2)))
        return self.norm(torch.stack(found, dim=1))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class SSREncoder(AbstractReferenceAdapter):
    """The query and the maps.

    Differs from SSR-Encoder in that another picture of the subject is shown than the one that is drawn.

    Args:
        config: of the adapter.
        reading: of the image encoder.
        channels: of every text cross-attention, by its path.
        context: width of text states.
    """

    sees: Sees = "layers"
    depths = (1 / 6, 1 / 3, 1 / 2, 2 / 3, 5 / 6, 1.0)
    """Layers 4, 8, 12, 16, 20 and 24 of 24 in the released code."""
    asks_noun = True
    several = True

    def __init__(self, config: SSREncoderConfig, reading: Reading, channels: dict[str, int], context: int) -> None:
        super().__init__()
        self.config, self.width, self.context = config, reading.width, context
        self.query = TokenToPatch(config, reading, context)
        self.maps = {path: path.replace(".", "_") for path in channels}
        self.keys = nn.ModuleDict({n: nn.Linear(context, channels[p], bias=False) for p, n in self.maps.items()})
        self.values = nn.ModuleDict({n: nn.Linear(context, channels[p], bias=False) for p, n in self.maps.items()})

    @classmethod
    def untrained(
        cls, config: SSREncoderConfig, backbone: AbstractBackbone, reading: Reading, seed: int
    ) -> "SSREncoder":
        """Nothing of it is the base's."""
        return cls(config, reading, attention_widths(backbone), context_width(backbone))

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("ssr-encoder", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. What several pictures tell stands side by side."""
        found, _ = self._found(asked.encode, asked.shown)
        tokens = found.flatten(1, 3)
        pairs = {
            path: (self.keys[name](tokens), asked.scale * self.values[name](tokens)) for path, name in self.maps.items()
        }
        return asked.encoded().beside(Decoupled(pairs=pairs))

    def _found(self, encode: Encode, shown: Shown) -> tuple[Tensor, Tensor]:
        """What the nouns find, `b r l n context`, and the nouns, `b r n context`; "" asks where there is no picture."""
        like = next(self.parameters())
        features = shown.to(like).sight.features
        count = features.shape[1]
        nouns = [noun if seen else "" for own, seen in zip(shown.nouns, shown.rows, strict=True) for noun in own]
        different = list(dict.fromkeys(nouns))
        states = encode(different).states[[different.index(noun) for noun in nouns]].to(like)
        found = self.query(states, features.flatten(0, 1))
        return found.unflatten(0, (-1, count)), states.unflatten(0, (-1, count))

    @contextlib.contextmanager
    def watching(self, backbone: AbstractBackbone, pairs: Pairs) -> Iterator[Terms]:
        """See `AbstractReferenceAdapter.watching`: `consistency`."""

        def terms() -> dict[str, Tensor]:
            found, nouns = self._found(backbone.encode_prompt, pairs.shown)
            apart = 1 - F.cosine_similarity(found.float(), nouns.float().detach().unsqueeze(2), dim=-1)
            return {"consistency": self.config.consistency_weight * apart.mean((0, 1, 3)).sum()}

        yield terms
