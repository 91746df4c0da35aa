"""Attention to something else in the text's place, in some rows of a batch."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.cpu_attention import attend
from pcs_ext.image.backbones.joint import in_heads, side_by_side
from pcs_ext.image.reference.inside import Read
from pcs_ext.image.reference.own_maps import texts_pairs


@contextlib.contextmanager
def attending_instead(
    denoiser: nn.Module, pairs: Mapping[str, tuple[Tensor, Tensor]], rows: Tensor, strength: Tensor | None = None
) -> Iterator[None]:
    """Inside, what some rows find in the text is replaced by what they find in other keys and values.

    Args:
        denoiser: with the attentions.
        pairs: by path, keys and values after their projections, `m k d` each.
        rows: numbers of the `m` rows in the batch that is denoised.
        strength: `m`, how far they are replaced; None: wholly.
    """
    handles = []
    try:
        for path, (keys, values) in pairs.items():
            attention = denoiser.get_submodule(path)
            instead = _Instead(attention, rows, keys, values, strength)
            handles.append(attention.get_submodule("to_q").register_forward_hook(instead.keep))
            handles.append(attention.get_submodule("to_out.0").register_forward_pre_hook(instead.replace))
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def reading_instead(backbone: AbstractBackbone, read: Read) -> Iterator[None]:
    """Inside, rows that see pictures read their tokens in the text's place, by the base's own keys and values."""
    rows = read.seen
    pairs = texts_pairs(backbone, read.vectors[rows])
    with attending_instead(backbone.denoiser, pairs, rows, read.strength[rows]):
        yield


class _Instead:
    """One attention."""

    def __init__(self, attention: Any, rows: Tensor, keys: Tensor, values: Tensor, strength: Tensor | None) -> None:
        self.heads, self.scale, self.rows = attention.heads, attention.scale, rows
        self.keys, self.values, self.strength = keys, values, strength
        self._query: Tensor | None = None

    def keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """After `to_q`."""
        self._query = output

    def replace(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Before `to_out`."""
        query, self._query = self._query, None
        assert query is not None, "the attention gave an output without asking for queries"
        text, rows = inputs[0], self.rows.to(query.device)
        asked, told, found = (in_heads(x.to(query.dtype), self.heads) for x in (query[rows], self.keys, self.values))
        found = side_by_side(attend(asked, told, found, self.scale)).to(text.dtype)
        if self.strength is not None:
            found = torch.lerp(text[rows], found, self.strength.to(found)[:, None, None])
        return (text.index_copy(0, rows, found), *inputs[1:])
