"""Tiny real models with random weights, written as the folders and files that users have."""

import atexit
import collections
import functools
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pcs_ext.image.backbones.clip_tokenizer import read_clip_tokenizer
from pcs_ext.image.backbones.load import load_backbone
from pcs_ext.image.backbones.unet import AbstractUnetBackbone
from pcs_ext.toybox.train.tokenizer import learn_bpe
from tests.support.copies import deep_copy

WORDS = "a photo of the dog cat red blue toy on beach grass in snow hat sks bqx xzv wearing painting".split()  # noqa: SIM905


def tiny_tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer that knows `WORDS`, written to a folder."""
    vocabulary, merges = learn_bpe(collections.Counter({word: 30 - i for i, word in enumerate(WORDS)}))
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = CLIPTokenizer.from_pretrained(folder)
    tokenizer.model_max_length = 24
    tokenizer.save_pretrained(folder)
    return tokenizer


def tiny_folder(folder: Path, *, family: str = "sd", prediction_type: Any = "epsilon") -> Path:
    """A complete diffusers pipeline folder of a few ten thousand weights; torch's generator starts anew."""
    made = _folder(family, prediction_type)
    torch.manual_seed(0)
    return Path(shutil.copytree(made, folder))


def tiny_backbone(folder: Path, *, family: str = "sd", prediction_type: Any = "epsilon") -> AbstractUnetBackbone:
    """The same, loaded on the CPU in float32."""
    # To make, write and load a model takes four times as long as to copy one, and a thousand tests want their own.
    # Not the tokenizers: a copy of one decodes otherwise.
    made = _backbone(family, prediction_type)
    backbone = deep_copy(made, {id(tokenizer): tokenizer for tokenizer in made.tokenizers})
    place = tiny_folder(folder, family=family, prediction_type=prediction_type).resolve()
    names = ("tokenizer", "tokenizer_2")[: len(made.tokenizers)]
    backbone.name, backbone.tokenizers = str(place), tuple(read_clip_tokenizer(place / name) for name in names)
    return backbone


@functools.cache
def _backbone(family: str, prediction_type: Any) -> AbstractUnetBackbone:
    return load_backbone(str(_folder(family, prediction_type)), device="cpu", precision="fp32")


@functools.cache
def _folder(family: str, prediction_type: Any) -> Path:
    folder = Path(tempfile.mkdtemp(prefix="pcs_ext_tiny_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    torch.manual_seed(0)
    widths = (16, 24) if family == "sdxl" else (16,)
    entries: dict[str, object] = {"_class_name": "StableDiffusionPipeline", "scheduler": ["diffusers", "DDIMScheduler"]}
    for index, width in enumerate(widths):
        suffix = "" if index == 0 else "_2"
        tokenizer = tiny_tokenizer(folder / f"tokenizer{suffix}")
        kind = CLIPTextModel if index == 0 else CLIPTextModelWithProjection
        kind(_text_config(tokenizer, width)).save_pretrained(folder / f"text_encoder{suffix}")
        entries[f"text_encoder{suffix}"] = ["transformers", kind.__name__]
        entries[f"tokenizer{suffix}"] = ["transformers", "CLIPTokenizer"]
    _unet(sum(widths), widths[-1] if family == "sdxl" else None).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(8, 8, 8),  # pyright: ignore[reportArgumentType]
        down_block_types=("DownEncoderBlock2D",) * 3,  # pyright: ignore[reportArgumentType]
        up_block_types=("UpDecoderBlock2D",) * 3,  # pyright: ignore[reportArgumentType]
        norm_num_groups=4,
        sample_size=32,
    ).save_pretrained(folder / "vae")
    scheduler = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", prediction_type=prediction_type
    )
    scheduler.save_pretrained(folder / "scheduler")
    entries |= {"unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"]}
    (folder / "model_index.json").write_text(json.dumps(entries), encoding="utf-8")
    return folder


def _text_config(tokenizer: Any, width: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=width,
        max_position_embeddings=24,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _unet(context: int, pooled: int | None) -> UNet2DConditionModel:
    extra = {}
    if pooled is not None:
        extra = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 6 * 8 + pooled,
        }
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=context,
        attention_head_dim=2,
        norm_num_groups=8,
        **extra,
    )
