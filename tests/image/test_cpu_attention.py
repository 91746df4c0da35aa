"""Attention on CPUs: written out where that is fast, it is the softmax's."""

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.image.backbones import cpu_attention
from pcs_ext.image.backbones.cpu_attention import attend

Attention = Callable[[Tensor, Tensor, Tensor, float], Tensor]


@pytest.mark.parametrize("pairs", [0, 2**19])
def test_half_precision_is_near_the_truth(pairs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "_WRITTEN_OUT", pairs)
    states = [torch.randn(2, 2, tokens, 16, generator=torch.Generator().manual_seed(tokens)) for tokens in (200, 100)]
    states = [x.bfloat16() for x in (*states, states[1].flip(2))]
    truth = _with_gradients(_fused, [x.double() for x in states])
    for found, true in zip(_with_gradients(attend, states), truth, strict=True):
        assert found.dtype == torch.bfloat16
        assert (found - true).norm() <= 0.01 * true.norm()


def test_only_few_pairs_are_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[tuple[int, int]] = []
    monkeypatch.setattr(
        cpu_attention, "_written_out", lambda query, key, *_: written.append((query.shape[2], key.shape[2]))
    )
    for tokens in (256, 4096):
        _attend(tokens, 77)
        _attend(tokens, tokens)
    _attend(4, 4, torch.float32)
    with torch.no_grad():
        _attend(4, 4)
    assert written == [(256, 77), (256, 256), (4096, 77)]


def _attend(queries: int, keys: int, dtype: torch.dtype = torch.bfloat16) -> None:
    query, key = (torch.zeros(1, 1, tokens, 8, dtype=dtype) for tokens in (queries, keys))
    attend(query, key, key, 1.0)


def _fused(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, scale=scale)


def _with_gradients(attention: Attention, states: Sequence[Tensor]) -> list[Tensor]:
    query, key, value = (x.clone().requires_grad_(True) for x in states)
    mixed = attention(query, key, value, 0.25)
    return [mixed.detach(), *torch.autograd.grad(mixed.square().sum(), (query, key, value))]
