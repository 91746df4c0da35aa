"""Attention on CPUs: fused where that is faster, plain matrix products where its backward pass is not."""

from typing import Any

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from torch import Tensor


class CpuAttention:
    """diffusers' fused attention, except in half precision with gradients.

    There torch's fused backward pass on CPUs costs more than writing the matrices out: a LoRA step of the toybox
    denoiser takes 0.26 s instead of 0.36 s on one core with AMX (benchmarks/dreambooth_lora_step.py). In float32 the
    fused kernel is faster in both directions.
    """

    def __init__(self) -> None:
        self._fused, self._plain = AttnProcessor2_0(), AttnProcessor()

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        half = hidden_states.dtype != torch.float32 or torch.is_autocast_enabled("cpu")
        processor = self._plain if half and torch.is_grad_enabled() else self._fused
        return processor(attn, hidden_states, *args, **kwargs)
