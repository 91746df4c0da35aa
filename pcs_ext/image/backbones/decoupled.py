"""Decoupled cross-attention: what stands beside the text is attended to by itself, and what is found is added.

softmax(Q K'^T / sqrt(d)) V' is added to the text's softmax(Q K^T / sqrt(d)) V before the output projection (IP-Adapter,
Ye et al. 2023, arXiv 2308.06721, eq. 4 and 5). The text's own path is not touched: queries are read where `to_q` gives
them, and the sum is made where `to_out` takes it, so that any attention processor, program or low-rank layer stays.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

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
        for path in dict.fromkeys(path for source in sources for path in source):
            attention = denoiser.get_submodule(path)
            beside = _Beside(attention, [source[path] for source in sources if path in source])
            handles.append(attention.get_submodule("to_q").register_forward_hook(beside.keep))
            handles.append(attention.get_submodule("to_out.0").register_forward_pre_hook(beside.add))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Beside:
    """One attention module's further keys and values, between its queries and its output."""

    def __init__(self, attention: Any, pairs: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.heads, self.scale, self.pairs = attention.heads, attention.scale, pairs
        self._query: Tensor | None = None

    def keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """After `to_q`."""
        self._query = output

    def add(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Before `to_out`."""
        query, self._query = self._query, None
        assert query is not None, "the attention gave an output without asking for queries"
        mixed = inputs[0]
        for keys, values in self.pairs:
            asked, told, found = (self._split(x.to(query.dtype)) for x in (query, keys, values))
            mixed = mixed + attend(asked, told, found, self.scale).transpose(1, 2).flatten(2).to(mixed.dtype)
        return (mixed, *inputs[1:])

    def _split(self, x: Tensor) -> Tensor:
        """`b n d` -> `b heads n d/heads`."""
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)
