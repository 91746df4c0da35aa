"""Decoupled cross-attention: what stands beside the text is attended to by itself, and what is found is added.

softmax(Q K'^T / sqrt(d)) V' is added to the text's softmax(Q K^T / sqrt(d)) V before the output projection (IP-Adapter,
Ye et al. 2023, arXiv 2308.06721, eq. 4 and 5). The text's own path is not touched: queries are read where `to_q` gives
them, and the sum is made where `to_out` takes it, so that any attention processor, program or low-rank layer stays.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pcs_ext.image.backbones.cpu_attention import attend
from pcs_ext.image.types import Decoupled


@contextlib.contextmanager
def attending_besides(denoiser: nn.Module, sources: Sequence[Decoupled]) -> Iterator[None]:
    """Inside, the modules named in `sources` attend to these keys and values, too. Differentiable.

    Args:
        denoiser: with the modules.
        sources: batches equal the denoiser's; a source's strength is in its values.
    """
    handles: list[RemovableHandle] = []
    try:
        for path in dict.fromkeys(path for source in sources for path in source.pairs):
            attention = denoiser.get_submodule(path)
            found = [(*source.pairs[path], source.gate) for source in sources if path in source.pairs]
            beside = _Beside(attention, found)
            handles.append(attention.get_submodule("to_q").register_forward_hook(beside.keep))
            if any(gate is not None for _, _, gate in found):
                handles.append(attention.get_submodule("to_k").register_forward_hook(beside.keep_keys))
            handles.append(attention.get_submodule("to_out.0").register_forward_pre_hook(beside.add))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Beside:
    """One attention module's further keys and values, between its queries and its output."""

    def __init__(self, attention: Any, sources: Sequence[tuple[Tensor, Tensor, Tensor | None]]) -> None:
        self.heads, self.scale, self.sources = attention.heads, attention.scale, sources
        self._query: Tensor | None = None
        self._keys: Tensor | None = None

    def keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """After `to_q`."""
        self._query = output

    def keep_keys(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """After `to_k`, where a gate asks where cells look in the text."""
        self._keys = output

    def add(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Before `to_out`."""
        query, self._query = self._query, None
        text, self._keys = self._keys, None
        assert query is not None, "the attention gave an output without asking for queries"
        mixed = inputs[0]
        for keys, values, gate in self.sources:
            asked, told, found = (self._split(x.to(query.dtype)) for x in (query, keys, values))
            seen = attend(asked, told, found, self.scale)
            if gate is not None:
                assert text is not None, "a gated source stands beside an attention to the text"
                seen = seen * self._looks(asked, self._split(text.to(query.dtype)), gate).to(seen.dtype)
            mixed = mixed + seen.transpose(1, 2).flatten(2).to(mixed.dtype)
        return (mixed, *inputs[1:])

    def _looks(self, asked: Tensor, text: Tensor, gate: Tensor) -> Tensor:
        """How much each cell looks at the gate's word, `b heads n 1` in [0, 1], the largest of a picture 1."""
        scores = self.scale * (asked.float() @ text.float().transpose(-1, -2))
        looks = torch.einsum("bhnt,bt->bhn", scores.softmax(-1), gate.to(scores))
        return (looks / looks.amax((1, 2), keepdim=True).clamp_min(1e-8)).unsqueeze(-1)

    def _split(self, x: Tensor) -> Tensor:
        """`b n d` -> `b heads n d/heads`."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)
