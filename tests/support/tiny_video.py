"""Tiny motion adapters and text-to-video models with random weights."""

from typing import Any

import torch
from diffusers import MotionAdapter


def tiny_motion_adapter(seed: int = 0, **options: Any) -> MotionAdapter:
    """Fits the UNet of `tiny_folder`; not an identity."""
    torch.manual_seed(seed)
    settings = {
        "block_out_channels": (16, 32),
        "motion_layers_per_block": 1,
        "motion_num_attention_heads": 2,
        "motion_norm_num_groups": 8,
        "motion_max_seq_length": 8,
        **options,
    }
    return MotionAdapter(**settings)
