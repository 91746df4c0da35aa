"""Tiny encoders of real architectures, random weights, saved as the transformers folders that users have."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPConfig,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    PreTrainedModel,
    ResNetConfig,
    ResNetModel,
    ViTConfig,
    ViTModel,
)

PREPROCESSOR = {
    "do_resize": True,
    "size": {"shortest_edge": 32},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 32, "width": 32},
    "do_normalize": True,
    "image_mean": [0.48, 0.46, 0.41],
    "image_std": [0.27, 0.26, 0.28],
}


def _save(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return folder


def tiny_clip(folder: Path, width: int = 32) -> Path:
    """A CLIP pair of 32 px with a tokenizer of single letters."""
    tower = {"hidden_size": width, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    letters = [chr(code) for code in range(97, 123)]
    words = [*letters, *[letter + "</w>" for letter in letters], "<|startoftext|>", "<|endoftext|>"]
    text = {"vocab_size": len(words), "max_position_embeddings": 20, "bos_token_id": 52, "eos_token_id": 53, **tower}
    vision = {"image_size": 32, "patch_size": 8, **tower}
    torch.manual_seed(0)
    _save(CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)), folder)
    (folder / "vocab.json").write_text(json.dumps({word: index for index, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt")).save_pretrained(folder)
    return folder


def tiny_dino(folder: Path) -> Path:
    """A DINOv2 of 32 px."""
    torch.manual_seed(1)
    config = Dinov2Config(image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=2)
    return _save(Dinov2Model(config), folder)


def tiny_vit(folder: Path) -> Path:
    """A ViT as DINO (v1) weights come: without the pooler head."""
    torch.manual_seed(2)
    size: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = ViTModel(ViTConfig(image_size=32, patch_size=8, intermediate_size=64, **size), add_pooling_layer=False)
    return _save(model, folder)


def tiny_resnet(folder: Path) -> Path:
    """A ResNet of two stages."""
    torch.manual_seed(3)
    config = ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    return _save(ResNetModel(config), folder)
