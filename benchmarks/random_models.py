"""Complete diffusers folders with random weights, for benchmarks: the geometry is real, the pictures are not."""

import collections
import dataclasses
import json
from pathlib import Path
from typing import Any

import torch


@dataclasses.dataclass(frozen=True, kw_only=True)
class Geometry:
    """Sizes of a Stable Diffusion."""

    resolution: int
    """Side of the images in pixels."""
    unet: tuple[int, ...]
    """Channels by level; all but the last have text attention."""
    layers: int
    """ResNets per down block."""
    heads: int
    """`attention_head_dim` of the denoiser, which for this class is the number of heads."""
    vae: tuple[int, ...]
    """Channels by level of the autoencoder."""
    vae_layers: int
    """ResNets per autoencoder block."""
    text_width: int
    """Width of the text encoder."""
    text_layers: int
    """Depth of the text encoder."""


GEOMETRIES = {
    "toybox": Geometry(
        resolution=64, unet=(64, 128, 192), layers=1, heads=4, vae=(32, 64, 128), vae_layers=1, text_width=192,
        text_layers=4,
    ),
    "sd15-small": Geometry(
        resolution=512, unet=(80, 160, 320, 320), layers=2, heads=8, vae=(32, 64, 128, 128), vae_layers=2,
        text_width=192, text_layers=12,
    ),
    "sd15": Geometry(
        resolution=512, unet=(320, 640, 1280, 1280), layers=2, heads=8, vae=(128, 256, 512, 512), vae_layers=2,
        text_width=768, text_layers=12,
    ),
}  # fmt: skip


def write_model(folder: Path, geometry: Geometry) -> None:
    """Write a Stable Diffusion of this geometry: float32 safetensors, CLIP tokenizer, 77 tokens."""
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    from pcs_ext.toybox.train.tokenizer import learn_bpe

    torch.manual_seed(0)
    words = ("a", "photo", "of", "the", "sks", "dog", "toy")
    vocabulary, merges = learn_bpe(collections.Counter({word: 20 - i for i, word in enumerate(words)}))
    tokens = folder / "tokenizer"
    tokens.mkdir(parents=True)
    (tokens / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (tokens / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(tokens)
    tokenizer.model_max_length = 77
    tokenizer.save_pretrained(tokens)
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=geometry.text_width,
        intermediate_size=4 * geometry.text_width,
        num_hidden_layers=geometry.text_layers,
        num_attention_heads=geometry.text_width // 16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    CLIPTextModel(text).save_pretrained(folder / "text_encoder")
    kinds: dict[str, Any] = {
        "down_block_types": ("CrossAttnDownBlock2D",) * (len(geometry.unet) - 1) + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (len(geometry.unet) - 1),
    }
    levels = len(geometry.vae)
    UNet2DConditionModel(
        sample_size=geometry.resolution // 2 ** (levels - 1),
        block_out_channels=geometry.unet,
        layers_per_block=geometry.layers,
        cross_attention_dim=geometry.text_width,
        attention_head_dim=geometry.heads,
        norm_num_groups=16,
        **kinds,
    ).save_pretrained(folder / "unet")
    vae: dict[str, Any] = {
        "block_out_channels": geometry.vae,
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
    }
    AutoencoderKL(**vae, layers_per_block=geometry.vae_layers, norm_num_groups=16).save_pretrained(folder / "vae")
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    scheduler.save_pretrained(folder / "scheduler")
    index = {
        "_class_name": "StableDiffusionPipeline",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDPMScheduler"],
    }
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
