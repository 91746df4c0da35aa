"""Attention on CPUs: the fused kernel, except where its backward pass costs more than what it saves."""

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import AttnProcessor2_0
from torch import Tensor

_PLAIN_TOKENS = 1024


class CpuAttention:
    """diffusers' fused attention, except in half precision with gradients.

    There torch's fused backward pass is slow on CPUs. Up to 1,024 queries the matrices are written out instead; above,
    where they would not fit into memory, queries, keys and values are cast to float32 for the fused kernel. Measured
    by benchmarks/dreambooth_lora_step.py.
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
        if not (_slow_backward(hidden_states) and plain_form) or attention_mask is not None:
            return self._fused(attn, hidden_states, encoder_hidden_states, attention_mask, temb, **options)
        states = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        projected = (attn.to_q(hidden_states), attn.to_k(states), attn.to_v(states))
        query, key, value = (x.unflatten(2, (attn.heads, -1)).transpose(1, 2) for x in projected)
        mixed = attend(query, key, value, attn.scale).transpose(1, 2).flatten(2)
        mixed = attn.to_out[1](attn.to_out[0](mixed))
        if attn.residual_connection:
            mixed = mixed + hidden_states
        return mixed / attn.rescale_output_factor


def attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """Attention `b heads tokens d` of queries, keys and values likewise, by whichever way is fast on their device."""
    if not _slow_backward(query):
        return F.scaled_dot_product_attention(query, key, value, scale=scale)
    mix = _written_out if query.shape[2] <= _PLAIN_TOKENS else _fused_in_float32
    return mix(query, key, value, scale)


def _slow_backward(x: Tensor) -> bool:
    half = x.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
    return x.device.type == "cpu" and half and torch.is_grad_enabled()


def _written_out(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """`b heads tokens d` in, the same out."""
    # Autocast would widen the softmax to float32; its kernel sums in float32 whatever it reads and writes.
    with torch.autocast("cpu", enabled=False):
        return (query * scale @ key.transpose(2, 3)).softmax(-1) @ value


def _fused_in_float32(query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
    """`b heads tokens d` in, the same out."""
    with torch.autocast("cpu", enabled=False):
        return F.scaled_dot_product_attention(query.float(), key.float(), value.float(), scale=scale).to(value.dtype)
