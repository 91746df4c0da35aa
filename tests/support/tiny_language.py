"""Tiny causal language models and a vision-language model, in transformers' folders."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)

from tests.support.tiny import tiny_tokenizer


def tiny_language_model(folder: Path, kind: str = "llama") -> tuple[Path, Any]:
    """A folder of `llama`, whose head is its own, of `gpt2`, whose head is tied, or of `llava`; and the model."""
    tokenizer: Any = tiny_tokenizer(folder)
    torch.manual_seed(3)
    words = len(tokenizer)
    llama = LlamaConfig(
        vocab_size=words, hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        pad_token_id=None, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    if kind == "llama":
        model: Any = LlamaForCausalLM(llama)
    elif kind == "gpt2":
        model = GPT2LMHeadModel(
            GPT2Config(
                vocab_size=words, n_positions=64, n_embd=8, n_layer=2, n_head=2, bos_token_id=tokenizer.bos_token_id,
                eos_token_id=tokenizer.eos_token_id,
            )
        )  # fmt: skip
    else:
        vision = CLIPVisionConfig(
            hidden_size=8, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
        )
        model = LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=llama))
    model.eval().save_pretrained(folder)
    return folder, model
