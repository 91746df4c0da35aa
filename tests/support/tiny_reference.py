"""Tiny IP-Adapters with random weights, written as published files are, and image encoders beside them."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.ip_adapter import IPAdapter, attention_order
from pcs_ext.image.reference.projection import LinearProjection, Resampler

WIDTH, HIDDEN = 16, 32
"""Of the encoder's embedding and of its patches."""


def tiny_adapter(backbone: AbstractBackbone, *, plus: bool = False, seed: int = 0) -> IPAdapter:
    """An adapter whose every weight is random and large enough to matter."""
    attentions = [backbone.denoiser.get_submodule(path) for path in attention_order(backbone)]
    context = attentions[0].to_k.weight.shape[1]
    torch.manual_seed(seed)
    projection = (
        Resampler(HIDDEN, context, 6, inner=24, attention=128, depth=4)
        if plus
        else LinearProjection(WIDTH, context, 4)
    )  # fmt: skip
    made = IPAdapter(projection, [attention.to_k.weight.shape[0] for attention in attentions])
    for parameter in made.parameters():
        nn.init.normal_(parameter, std=0.5)
    return made.requires_grad_(False)


def tiny_vision(folder: Path) -> Path:
    """The vision half of a CLIP, without a preprocessor file, as it lies in published repositories."""
    torch.manual_seed(5)
    config = CLIPVisionConfig(
        hidden_size=HIDDEN, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, image_size=32,
        patch_size=8, projection_dim=WIDTH,
    )  # fmt: skip
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def published(folder: Path, backbone: AbstractBackbone, *, plus: bool = False, name: str = "ip-adapter") -> Path:
    """`models/NAME.safetensors` and `models/image_encoder/` in a folder; the file."""
    encoder = folder / "models" / "image_encoder"
    if not encoder.exists():
        tiny_vision(encoder)
    path = folder / "models" / f"{name}.safetensors"
    save_file(dict(tiny_adapter(backbone, plus=plus).published()), path)
    return path
