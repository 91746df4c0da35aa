"""Tiny real backbones: diffusers UNets and CLIP text encoders of a few thousand weights, SD and SDXL layouts."""

import functools
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.unet import per_layer_states
from pcs_ext.image.noise import NoiseSchedule
from pcs_ext.image.types import Conditioning
from tests.support.copies import deep_copy

_WORDS = ("dog", "cat", "photo", "beach", "on", "of", "the")


def make_tokenizer() -> CLIPTokenizer:
    visible = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256))]
    alphabet = visible + [chr(256 + i) for i in range(256 - len(visible))]
    vocab = {symbol: index for index, symbol in enumerate(alphabet + [f"{c}</w>" for c in alphabet])}
    merges: list[tuple[str, str]] = []
    for word in _WORDS:
        symbols = [*word[:-1], f"{word[-1]}</w>"]
        while len(symbols) > 1:
            merges.append((symbols[0], symbols[1]))
            symbols[:2] = [symbols[0] + symbols[1]]
            vocab.setdefault(symbols[0], len(vocab))
    for mark in ("<|startoftext|>", "<|endoftext|>"):
        vocab[mark] = len(vocab)
    pairs: Any = list(dict.fromkeys(merges))
    return CLIPTokenizer(vocab=vocab, merges=pairs, model_max_length=20)


def make_text_encoder(tokenizer: CLIPTokenizer, width: int, *, projection: bool) -> torch.nn.Module:
    config = CLIPTextConfig(
        # Three unused rows above the tokenizer's words, as padded tables have.
        vocab_size=len(tokenizer) + 3,
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=width,
        max_position_embeddings=20,
        # What the published SD and SDXL configs say: pool at the largest id.
        eos_token_id=2,
        bos_token_id=0,
        pad_token_id=len(tokenizer) - 1,
    )
    return (CLIPTextModelWithProjection if projection else CLIPTextModel)(config)


class TinyBackbone(AbstractBackbone):
    def __init__(self, family: str, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.name, self.family, self.dtype, self.device = f"tiny-{family}", family, dtype, torch.device("cpu")
        self.resolution, self.vae_factor, self.latent_channels = 16, 2, 4
        xl = family == "sdxl"
        widths = (16, 24) if xl else (16,)
        self.tokenizers = tuple(make_tokenizer() for _ in widths)
        self.text_encoders = tuple(
            make_text_encoder(tok, width, projection=width == 24).to(dtype)
            for tok, width in zip(self.tokenizers, widths, strict=True)
        )
        unet: dict[str, Any] = {
            "sample_size": 8,
            "block_out_channels": (8, 16),
            "layers_per_block": 1,
            "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
            "cross_attention_dim": sum(widths),
            "attention_head_dim": 4,
            "norm_num_groups": 4,
        }
        if xl:
            size_and_pooled = 24 + 6 * 8
            unet |= {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
            unet |= {"projection_class_embeddings_input_dim": size_and_pooled}
        vae: dict[str, Any] = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 4}
        self.denoiser: Any = UNet2DConditionModel(**unet)
        self.vae: Any = AutoencoderKL(**vae)
        for part in (self.denoiser, self.vae):
            part.to(dtype=dtype)
        self.schedule = NoiseSchedule(alphas_cumprod=torch.linspace(0.99, 0.01, 100), prediction_type="epsilon")
        for module in (*self.text_encoders, self.denoiser, self.vae):
            module.eval().requires_grad_(False)
        # diffusers sets attributes of its own in the first forward.
        with torch.no_grad():
            self.predict(torch.zeros(1, 4, 8, 8).to(dtype), torch.tensor([0]), self.encode_prompt(["a dog"]))

    @property
    def fingerprint(self) -> str:
        return "0" * 16

    def encode_images(self, images, generator=None):
        return self.vae.encode(images).latent_dist.mean

    def encode_posterior(self, images):
        posterior = self.vae.encode(images).latent_dist
        return posterior.mean, posterior.std

    def decode_latents(self, latents):
        return self.vae.decode(latents).sample

    def encode_prompt(self, prompts, *, size=None):
        states, pooled = [], None
        for tokenizer, encoder in zip(self.tokenizers, self.text_encoders, strict=True):
            ids = tokenizer(
                list(prompts), padding="max_length", truncation=True, max_length=20, return_tensors="pt"
            ).input_ids
            out = encoder(ids, output_hidden_states=True)
            states.append(out.hidden_states[-2] if self.family == "sdxl" else out.last_hidden_state)
            pooled = out[0]
        xl = self.family == "sdxl"
        return Conditioning(
            states=torch.cat(states, dim=-1),
            pooled=pooled if xl else None,
            time_ids=torch.full((len(prompts), 6), 16.0) if xl else None,
        )

    def predict(self, noisy_latents, timesteps, conditioning):
        more = None
        if conditioning.pooled is not None:
            more = {"text_embeds": conditioning.pooled, "time_ids": conditioning.time_ids}
        with per_layer_states(self.denoiser, self.cross_attention_paths, timesteps, conditioning, self.dtype):
            return self.denoiser(noisy_latents, timesteps, conditioning.states, added_cond_kwargs=more).sample

    def token_count(self, prompt):
        return len(self.tokenizers[0](prompt).input_ids) - 2

    def cross_attention_paths(self):
        return tuple(name for name, _ in self.denoiser.named_modules() if name.endswith("attn2"))


def fresh(family: str, dtype: torch.dtype = torch.float32) -> TinyBackbone:
    """A backbone of one's own; torch's generator starts anew. Copied: building one takes three times as long."""
    kept = _made(family, dtype)
    made = deep_copy(kept, {id(tokenizer): tokenizer for tokenizer in kept.tokenizers})
    # A copy of a tokenizer decodes otherwise.
    made.tokenizers = tuple(make_tokenizer() for _ in kept.tokenizers)
    torch.manual_seed(0)
    return made


@functools.cache
def _made(family: str, dtype: torch.dtype) -> TinyBackbone:
    return TinyBackbone(family, dtype)


def run_denoiser(backbone, prompt="a photo of <rex>"):
    """The denoiser's output for a prompt, through the text encoders, with fixed noise."""
    conditioning = backbone.encode_prompt([prompt, "a cat"])
    noise = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(1)).to(backbone.dtype)
    return backbone.predict(noise, torch.tensor([3, 70]), conditioning)


def snapshot_of(backbone):
    """Everything of a backbone that an adapter could leave traces in, as a comparable value."""
    modules = {f"{c}.{n}": m for c, root in backbone.components().items() for n, m in root.named_modules()}
    return {
        "module ids": {name: id(module) for name, module in modules.items()},
        "parameter ids": {f"{n}.{k}": id(p) for n, m in modules.items() for k, p in m._parameters.items()},
        "tensors": {
            f"{c}.{k}": v.detach().float().numpy().tobytes()
            for c, root in backbone.components().items()
            for k, v in root.state_dict().items()
        },
        "flags": {
            f"{c}.{n}": p.requires_grad for c, r in backbone.components().items() for n, p in r.named_parameters()
        },
        "attributes": {
            name: [*sorted(vars(module)), vars(module).get("eos_token_id"), module.training]
            for name, module in modules.items()
        },
        "backbone": sorted(vars(backbone)),
        "tokenizer ids": [id(tokenizer) for tokenizer in backbone.tokenizers],
        "words": [len(tokenizer) for tokenizer in backbone.tokenizers],
    }
