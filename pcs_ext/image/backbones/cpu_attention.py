"""Attention on CPUs: the fused kernel, except where its backward pass costs more than what it saves."""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor

_WRITTEN_OUT = 2**19
"""Pairs of a query and a key up to which a head's matrix of weights is written out."""


class CpuAttention:
    """diffusers' fused attention, except of few queries and keys in half precision with gradients.

    There torch's fused backward pass takes twice the time of plain products; with many it is the faster one, and
    their matrices would not fit into memory. Measured by benchmarks/cpu_attention.py.
    """

    def __init__(self) -> None:
        self._fused = AttnProcessor2_0()

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        **options: Any,
    ) -> Tensor:
        plain_form = attn.spatial_norm is None and attn.group_norm is None and hidden_states.dim() == 3
        states = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        slow = plain_form and _slow_when_fused(hidden_states, states.shape[1])
        if not slow or attention_mask is not None:
            return self._fused(attn, hidden_states, encoder_hidden_states, attention_mask, temb, **options)
        projected = (attn.to_q(hidden_states), attn.to_k(states), attn.to_v(states))
        query, key, value = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in projected)
        mixed = attend(query, key, value, attn.scale).transpose(1, 2).flatten(2)
        mixed = attn.to_out[1](attn.to_out[0](mixed))
        if attn.residual_connection:
            mixed = mixed + hidden_states
        return mixed / attn.rescale_output_factor


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attention `b heads tokens d` of queries, keys and values likewise, by whichever way is fast on their device."""
    if _slow_when_fused(query, key.shape[2]):
        return _written_out(query, key, value, scale)
    return F.scaled_dot_product_attention(query, key, value, scale=scale)


def _slow_when_fused(query: Tensor, keys: int) -> bool:
    half = query.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
    few = query.shape[-2] * keys <= _WRITTEN_OUT
    return query.device.type == "cpu" and half and few and torch.is_grad_enabled()


def _written_out(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    # Autocast would widen the softmax to float32; its kernel sums in float32 whatever it reads and writes.
    with torch.autocast("cpu", enabled=False):
        return (query * scale @ key.transpose(2, 3)).softmax(-1) @ value
