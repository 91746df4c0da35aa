"""PVA, parallel visual attention (Xu et al. 2023, arXiv 2312.03556): one softmax over the text and over identities.

Every text cross-attention gets queries, keys and values of its own for what pictures tell. Their scores stand beside
the text's, and one softmax goes over both: a cell that looks at the person looks that much less at the words. It is
made for filling holes in photos of a person (`reference inpaint`).
"""

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.asked import Asked
from pcs_ext.image.reference.base import AbstractReferenceAdapter, Reading, check_context, context_width
from pcs_ext.image.reference.inside import Read, beside, reading
from pcs_ext.image.reference.joint import in_heads, joint_attention, side_by_side
from pcs_ext.image.reference.shown import Sees
from pcs_ext.image.types import Conditioning

_NAME = "reference_pva"


@config
class PVAConfig:
    """A transformer over pictures, and parallel attention."""

    kind: Literal["pva"] = "pva"
    """Tag in JSON."""
    layers: int = 4
    """Of the transformer; the released code's."""
    heads: int = 8
    """Of its attention; the released code's."""

    def __post_init__(self) -> None:
        if min(self.layers, self.heads) < 1:
            raise ConfigError(f"layers and heads must be at least 1, got {self.layers} and {self.heads}.")


class PVA(AbstractReferenceAdapter):
    """The transformer, and the attentions' own queries, keys and values.

    Differs from PVA, whose base was trained to fill holes and sees the hole and what is around it: any base is taken
    here, and what is around a hole is put back at every step. The transformer has no dropout, so that a training that
    goes on is the one that was stopped.

    Args:
        config: of the adapter.
        width: of the image encoder's embedding.
        widths: of every text cross-attention, what asks and what is asked with, by its path.
        context: of text states.
    """

    sees: Sees = "embedding"
    enters = True

    def __init__(self, config: PVAConfig, width: int, widths: dict[str, tuple[int, int]], context: int) -> None:
        super().__init__()
        if context % config.heads:
            raise ConfigError(f"heads must divide the width of text states, {context}; got {config.heads}.")
        self.config, self.width, self.context = config, width, context
        self.project = nn.Linear(width, context)
        layer = nn.TransformerEncoderLayer(context, config.heads, dropout=0.0, batch_first=True)
        self.transform = nn.TransformerEncoder(layer, config.layers, nn.LayerNorm(context), enable_nested_tensor=False)
        self.names = {path: path.replace(".", "_") for path in widths}
        sides = {self.names[path]: pair for path, pair in widths.items()}
        self.queries = nn.ModuleDict({name: nn.Linear(asks, own, bias=False) for name, (asks, own) in sides.items()})
        self.keys = nn.ModuleDict({name: nn.Linear(context, own, bias=False) for name, (_, own) in sides.items()})
        self.values = nn.ModuleDict({name: nn.Linear(context, own, bias=False) for name, (_, own) in sides.items()})

    @classmethod
    def untrained(cls, config: PVAConfig, backbone: AbstractBackbone, reading: Reading, seed: int) -> "PVA":
        """Queries, keys and values begin as the text's."""
        found = {path: backbone.denoiser.get_submodule(path) for path in backbone.cross_attention_paths()}
        widths = {path: tuple(reversed(attention.to_q.weight.shape)) for path, attention in found.items()}
        made = cls(config, reading.width, widths, context_width(backbone))
        with torch.no_grad():
            for path, name in made.names.items():
                for own, theirs in ((made.queries, "to_q"), (made.keys, "to_k"), (made.values, "to_v")):
                    own[name].weight.copy_(found[path].get_submodule(theirs).weight)  # type: ignore[operator, union-attr]
        return made

    def check(self, backbone: AbstractBackbone) -> None:
        """See `AbstractReferenceAdapter.check`."""
        check_context("pva", self.context, backbone)

    def _told(self, asked: Asked) -> Conditioning:
        """See `AbstractReferenceAdapter.conditioned`. Every picture is a token."""
        if not any(asked.shown.rows):
            return asked.encoded()
        tokens = self.transform(self.project(asked.shown.to(self.project.weight).sight.features))
        seen = torch.tensor(asked.shown.rows, device=tokens.device)
        return beside(asked.encoded(), _NAME, tokens, asked.scale * seen)

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: attentions are parallel while rows with pictures are denoised."""
        with super().inserted(backbone, scale), reading(backbone, _NAME, lambda read: self._parallel(backbone, read)):
            yield

    @contextlib.contextmanager
    def _parallel(self, backbone: AbstractBackbone, read: Read) -> Iterator[None]:
        handles = []
        try:
            for path, name in self.names.items():
                attention = backbone.denoiser.get_submodule(path)
                pair = self.keys[name](read.vectors), self.values[name](read.vectors)
                parallel = _Parallel(attention, self.queries[name], *pair, read.strength)
                handles.append(attention.get_submodule("to_q").register_forward_hook(parallel.keep_queries))
                handles.append(attention.get_submodule("to_k").register_forward_hook(parallel.keep_keys))
                handles.append(attention.get_submodule("to_out.0").register_forward_pre_hook(parallel.join))
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Parallel:
    """A second attention whose scores share the softmax of the first."""

    def __init__(self, attention: Any, to_query: nn.Module, keys: Tensor, values: Tensor, strength: Tensor) -> None:
        self.heads, self.scale, self.to_query = attention.heads, attention.scale, to_query
        self.keys, self.values, self.strength = keys, values, strength
        self._text: list[Tensor] = []
        self._query: Tensor | None = None

    def keep_queries(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """After `to_q`."""
        self._text, self._query = [output], self.to_query(inputs[0].to(self.keys.dtype))

    def keep_keys(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """After `to_k`."""
        self._text.append(output)

    def join(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Before `to_out`."""
        assert self._query is not None, "the attention gave an output without asking for queries"
        query, key = (in_heads(x, self.heads) for x in self._text)
        asked, told, found = (in_heads(x, self.heads) for x in (self._query, self.keys, self.values))
        self._text, self._query = [], None
        mixed = in_heads(inputs[0], self.heads)
        joined = joint_attention(mixed, (query, key), (asked, told, found), self.strength, self.scale)
        return (side_by_side(joined), *inputs[1:])
