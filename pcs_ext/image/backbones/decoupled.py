"""Decoupled cross-attention: what stands beside the text is attended to by itself, and what is found is added.

softmax(Q K'^T / sqrt(d)) V' is added to the text's softmax(Q K^T / sqrt(d)) V before the output projection (IP-Adapter,
Ye et al. 2023, arXiv 2308.06721, eq. 4 and 5). The text's own path is not touched: queries are read where `to_q` gives
them, and the sum is made where `to_out` takes it, so that any attention processor, program or low-rank layer stays.
Sources may also share one softmax with the text: softmax(Q [K, K']^T) [V, V'] is the mean of both results, weighed by
the sums of their exponentials, so that there, too, the text's own path is left alone.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from pcs_ext.image.backbones.cpu_attention import attend
from pcs_ext.image.backbones.joint import in_heads, joint_attention, scores, side_by_side
from pcs_ext.image.backbones.token_grid import token_grid
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
            beside = _Beside(attention, path, [source for source in sources if path in source.pairs])
            handles.append(attention.get_submodule("to_q").register_forward_hook(beside.keep))
            if beside.reads_text:
                handles.append(attention.get_submodule("to_k").register_forward_hook(beside.keep_keys))
            handles.append(attention.get_submodule("to_out.0").register_forward_pre_hook(beside.add))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Beside:
    """One attention module's further keys and values, between its queries and its output."""

    def __init__(self, attention: Any, path: str, sources: Sequence[Decoupled]) -> None:
        assert sum(source.joint is not None for source in sources) < 2, "one source shares a softmax with the text"
        self.heads, self.scale, self.path = attention.heads, attention.scale, path
        # What is added counts as much whoever shares the text's softmax.
        self.sources = sorted(sources, key=lambda source: source.joint is None)
        self._query: Tensor | None = None
        self._keys: Tensor | None = None

    @property
    def reads_text(self) -> bool:
        """Whether the keys of what the attention reads anyway are asked for."""
        return any(source.gate is not None or source.joint is not None for source in self.sources)

    def keep(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """After `to_q`."""
        self._query = output

    def keep_keys(self, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """After `to_k`."""
        self._keys = output

    def add(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Before `to_out`."""
        query, self._query = self._query, None
        keys, self._keys = self._keys, None
        assert query is not None, "the attention gave an output without asking for queries"
        assert keys is not None or not self.reads_text, "the source stands beside an attention that has keys"
        asked = in_heads(query, self.heads)
        text = None if keys is None else in_heads(keys.to(query.dtype), self.heads)
        mixed = in_heads(inputs[0], self.heads)
        for source in self.sources:
            told, found = (in_heads(x.to(query.dtype), self.heads) for x in source.pairs[self.path])
            if source.joint is not None:
                assert text is not None
                opened = None if source.where is None else _opened(asked, source.where)
                mixed = joint_attention(mixed, (asked, text), (asked, told, found), source.joint, self.scale, opened)
                continue
            seen = self._found(asked, told, found, source)
            if source.weight is not None:
                seen = seen * _weights(asked, source.weight).to(seen.dtype)
            if source.gate is not None:
                assert text is not None
                seen = seen * self._looks(asked, text, source.gate, source.above).to(seen.dtype)
            mixed = mixed + seen.to(mixed.dtype)
        return (side_by_side(mixed), *inputs[1:])

    def _found(self, asked: Tensor, told: Tensor, found: Tensor, source: Decoupled) -> Tensor:
        """What cells find among a source's tokens, `b heads n d`."""
        if source.where is not None:
            return self._inside(asked, told, found, source.where)
        if source.there is None:
            return attend(asked, told, found, self.scale)
        there = source.there[:, None, None, :].to(asked.device) > 0.5
        some = there.any(-1, keepdim=True)
        seen = F.scaled_dot_product_attention(asked, told, found, attn_mask=there | ~some, scale=self.scale)
        return seen * some.to(seen.dtype)

    def _inside(self, asked: Tensor, told: Tensor, found: Tensor, where: Tensor) -> Tensor:
        """What cells find among the tokens that are open to them; nothing where none is."""
        opened = _opened(asked, where)
        closed = scores(asked, told, self.scale).masked_fill(~opened, torch.finfo(torch.float32).min)
        probabilities = closed.softmax(-1) * opened
        return probabilities.to(found.dtype) @ found

    def _looks(self, asked: Tensor, text: Tensor, gate: Tensor, above: float | None) -> Tensor:
        """How much each cell looks at the gate's word, `b heads n 1` in [0, 1], the largest of a picture 1."""
        seen = scores(asked, text, self.scale).softmax(-1)
        looks = torch.einsum("bhnt,bt->bhn", seen, gate.to(seen))
        if above is None:
            return (looks / looks.amax((1, 2), keepdim=True).clamp_min(1e-8)).unsqueeze(-1)
        mean = looks.mean(1, keepdim=True)
        least, most = mean.amin(2, keepdim=True), mean.amax(2, keepdim=True)
        return (mean - least > above * (most - least)).to(looks).unsqueeze(-1)


def _opened(asked: Tensor, where: Tensor) -> Tensor:
    """Which tokens each cell may attend to, `b 1 cells m` bool, for queries `b heads cells d`."""
    grid = token_grid(asked.shape[2], (where.shape[2], where.shape[3]))
    # A coarse cell may attend where one of those that it covers may, as boxes round outwards.
    return F.adaptive_max_pool2d(where.float(), grid).flatten(2).transpose(1, 2)[:, None] > 0.5


def _weights(asked: Tensor, weight: Tensor) -> Tensor:
    """How much counts in each cell, `b 1 cells 1`, for queries `b heads cells d`."""
    grid = token_grid(asked.shape[2], (weight.shape[1], weight.shape[2]))
    return F.adaptive_avg_pool2d(weight[:, None], grid).flatten(2).unsqueeze(-1)
