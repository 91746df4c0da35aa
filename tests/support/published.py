"""Folders laid out as the published models are: their configurations and key names, with random weights.

Sizes come from the configurations that ship for single files (their weights are counted in a test); what else stands in
the published folders (schedulers, end marks, names of older keys, file names) is recalled. Narrow ones keep the depth,
the heads' kind and the text's 77 tokens, and divide the widths.
"""

import collections
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    MotionAdapter,
    UNet2DConditionModel,
    UNet3DConditionModel,
)
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from pcs_ext.config_io import read_json
from pcs_ext.image.backbones import single_file
from pcs_ext.toybox.train.tokenizer import learn_bpe
from tests.support.original_layout import clip_file, open_clip_file, unet_file, vae_file

Kind = Literal["sd15", "sd15-inpainting", "sd21", "sdxl", "modelscope"]
_SHIPPED = {"sd15": "sd1", "sd15-inpainting": "sd1", "sd21": "sd2-v", "sdxl": "sdxl", "modelscope": "sd2"}
_BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "num_train_timesteps": 1000}
_PNDM = {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1,
         "trained_betas": None, "clip_sample": False, **_BETAS}  # fmt: skip
_SCHEDULERS: dict[Kind, dict[str, Any]] = {
    "sd15": _PNDM,
    "sd15-inpainting": _PNDM,
    "sd21": {**_PNDM, "_class_name": "DDIMScheduler", "prediction_type": "v_prediction"},
    "sdxl": {**_PNDM, "_class_name": "EulerDiscreteScheduler", "prediction_type": "epsilon",
             "timestep_spacing": "leading", "interpolation_type": "linear", "use_karras_sigmas": False},
    "modelscope": {**_PNDM, "_class_name": "DDIMScheduler", "prediction_type": "epsilon"},
}  # fmt: skip
_PIPELINES: dict[Kind, str] = {
    "sd15": "StableDiffusionPipeline",
    "sd15-inpainting": "StableDiffusionInpaintPipeline",
    "sd21": "StableDiffusionPipeline",
    "sdxl": "StableDiffusionXLPipeline",
    "modelscope": "TextToVideoSDPipeline",
}
_LEGACY_ATTENTION = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
WORDS = "a photo of the in on with dog cat toy robot red blue beach snow hat sks wearing painting".split()  # noqa: SIM905


def published_config(kind: Kind, *, share: int = 1, cells: int | None = None) -> dict[str, Any]:
    """Configurations by component.

    Args:
        kind: of the model.
        share: widths are divided by it (320, 640, 1280 become 64, 128, 256 with 5); they stay multiples of 32.
        cells: side of the latents; None: the published one.
    """
    config = read_json(Path(single_file.__file__).parent / "configs" / f"{_SHIPPED[kind]}.json")
    unet, vae = config["unet"], config["vae"]
    heads = unet["attention_head_dim"]
    unet["block_out_channels"] = [_narrow(width, share) for width in unet["block_out_channels"]]
    if isinstance(heads, list):
        unet["attention_head_dim"] = [max(1, count // share) for count in heads]
    vae["block_out_channels"] = [_narrow(width, share) for width in vae["block_out_channels"]]
    encoders = [name for name in ("text_encoder", "text_encoder_2") if name in config]
    for name in encoders:
        text = config[name]
        width = _narrow(text["hidden_size"], share)
        # The published ids are wrong in the way that CLIP's first conversion was: "pool at the largest id".
        text |= {"hidden_size": width, "intermediate_size": 4 * width, "num_attention_heads": max(1, width // 64)}
        text |= {"projection_dim": _narrow(text["projection_dim"], share), "bos_token_id": 0, "eos_token_id": 2}
    unet["cross_attention_dim"] = sum(config[name]["hidden_size"] for name in encoders)
    if kind == "sdxl":
        pooled = config["text_encoder_2"]["projection_dim"]
        unet["projection_class_embeddings_input_dim"] = 6 * unet["addition_time_embed_dim"] + pooled
    if kind == "sd15-inpainting":
        unet["in_channels"] = 9
    if kind == "modelscope":
        _make_video(unet, share)
    unet["sample_size"] = cells or unet["sample_size"]
    config["scheduler"] = _SCHEDULERS[kind]
    return config


def _narrow(width: int, share: int) -> int:
    return max(32, width // share // 32 * 32)


def _make_video(unet: dict[str, Any], share: int) -> None:
    """ModelScope's UNet beside that of Stable Diffusion 2: 3D blocks, `attention_head_dim` channels a head, 256 px."""
    for key in ("down_block_types", "up_block_types"):
        unet[key] = [name.replace("2D", "3D") for name in unet[key]]
    unet |= {"attention_head_dim": max(8, 64 // share), "sample_size": 32}
    del unet["use_linear_projection"]


def published_folder(
    folder: Path,
    kind: Kind,
    *,
    share: int = 1,
    cells: int | None = None,
    variant: str | None = None,
    shards: int = 1,
    vocabulary: Path | None = None,
    seed: int = 0,
) -> Path:
    """A pipeline folder.

    Args:
        folder: to write.
        kind: of the model.
        share: see `published_config`.
        cells: see `published_config`.
        variant: "fp16": weights in half precision, under that variant's file names.
        shards: files that the denoiser's weights are spread over.
        vocabulary: folder with CLIP's `vocab.json` and `merges.txt`; None: a small one of the same format.
        seed: of the weights.
    """
    config = published_config(kind, share=share, cells=cells)
    torch.manual_seed(seed)
    denoiser = UNet3DConditionModel if kind == "modelscope" else UNet2DConditionModel
    index: dict[str, Any] = {"_class_name": _PIPELINES[kind], "_diffusers_version": "0.6.0"}
    for name in [name for name in ("text_encoder", "text_encoder_2") if name in config]:
        tokenizer = name.replace("text_encoder", "tokenizer")
        words = write_tokenizer(folder / tokenizer, vocabulary, pad="<|endoftext|>" if _first(kind, name) else "!")
        loader = CLIPTextModel if name == "text_encoder" else CLIPTextModelWithProjection
        text = {**config[name], "vocab_size": words}
        encoder = loader(CLIPTextConfig(**text))
        described = {"architectures": [loader.__name__], "model_type": "clip_text_model", **text}
        _write(folder / name, "model", described, text_keys(encoder), variant)
        index |= {name: ["transformers", loader.__name__], tokenizer: ["transformers", "CLIPTokenizer"]}
    unet = denoiser(**config["unet"])
    described = {"_class_name": denoiser.__name__, **config["unet"]}
    _write(folder / "unet", "diffusion_pytorch_model", described, unet.state_dict(), variant, shards)
    vae = AutoencoderKL(**config["vae"])
    described = {"_class_name": "AutoencoderKL", **config["vae"]}
    keys = vae.state_dict() if kind == "sdxl" else legacy_vae_keys(vae.state_dict())
    _write(folder / "vae", "diffusion_pytorch_model", described, keys, variant)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config["scheduler"]))
    index |= {"unet": ["diffusers", denoiser.__name__], "vae": ["diffusers", "AutoencoderKL"]}
    index |= {"scheduler": ["diffusers", config["scheduler"]["_class_name"]]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _first(kind: Kind, name: str) -> bool:
    """Whether a text encoder is OpenAI's CLIP, whose tokenizer pads with the end mark; OpenCLIP's pads with id 0."""
    return name == "text_encoder" and kind not in ("sd21", "modelscope")


def text_keys(encoder: nn.Module) -> dict[str, Tensor]:
    """A text encoder's weights under the names of the published files, with their table of positions."""
    state = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    named = {key if key.startswith("text_projection") else f"text_model.{key}": value for key, value in state.items()}
    positions = len(state["embeddings.position_embedding.weight"])
    return {**named, "text_model.embeddings.position_ids": torch.arange(positions)[None]}


def legacy_vae_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """An autoencoder's weights with the attention's names as they were when Stable Diffusion 1 and 2 were published."""
    made = {}
    for key, value in state.items():
        if ".attentions." in key:
            for ours, theirs in _LEGACY_ATTENTION.items():
                key = key.replace(f".{ours}.", f".{theirs}.")
        made[key] = value
    return made


def write_tokenizer(folder: Path, vocabulary: Path | None = None, *, pad: str = "<|endoftext|>") -> int:
    """A CLIP tokenizer's files as published; returns its number of words."""
    folder.mkdir(parents=True)
    if vocabulary is None:
        words, merges = learn_bpe(collections.Counter({word: 30 - i for i, word in enumerate(WORDS)}))
        (folder / "vocab.json").write_text(json.dumps(words), encoding="utf-8")
        lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
        (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        for name in ("vocab.json", "merges.txt"):
            (folder / name).write_bytes((vocabulary / name).read_bytes())
    end: dict[str, Any] = {"content": "<|endoftext|>", "lstrip": False, "normalized": True, "rstrip": False}
    end["single_word"] = False
    special = {"bos_token": {**end, "content": "<|startoftext|>"}, "eos_token": end, "unk_token": end, "pad_token": pad}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    typed = {key: {"__type": "AddedToken", **value} for key, value in special.items() if key != "pad_token"}
    # Whatever it pads with: in Stable Diffusion 2's own files, only the map of special tokens says so.
    typed |= {"pad_token": "<|endoftext|>", "model_max_length": 77, "do_lower_case": True, "errors": "replace"}
    typed |= {"add_prefix_space": False, "tokenizer_class": "CLIPTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(typed))
    return len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))


def _write(
    folder: Path, stem: str, config: Any, state: Mapping[str, Tensor], variant: str | None, shards: int = 1
) -> None:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config))
    if variant == "fp16":
        state = {key: value.half() if value.is_floating_point() else value for key, value in state.items()}
    tensors = {key: value.contiguous() for key, value in state.items()}
    ending = "safetensors" if variant is None else f"{variant}.safetensors"
    if shards == 1:
        save_file(tensors, folder / f"{stem}.{ending}", {"format": "pt"})
        return
    names = sorted(tensors)
    places = {}
    for shard in range(shards):
        name = f"{stem}-{shard + 1:05d}-of-{shards:05d}.{ending}"
        part = names[shard::shards]
        save_file({key: tensors[key] for key in part}, folder / name, {"format": "pt"})
        places |= dict.fromkeys(part, name)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = "safetensors.index.json" if variant is None else f"safetensors.index.{variant}.json"
    content = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / f"{stem}.{index}").write_text(json.dumps(content))


def published_motion(folder: Path, *, share: int = 1, middle: bool = True, variant: str | None = None) -> Path:
    """An AnimateDiff motion adapter as diffusers publishes it: version 1.5.2 with a middle block, 1.5.3 without."""
    torch.manual_seed(1)
    config = {
        "block_out_channels": [_narrow(width, share) for width in (320, 640, 1280, 1280)],
        "motion_layers_per_block": 2,
        "motion_mid_block_layers_per_block": 1,
        "motion_num_attention_heads": 8,
        "motion_norm_num_groups": 32,
        "motion_max_seq_length": 32,
        "use_motion_mid_block": middle,
    }
    adapter = MotionAdapter(**config)
    described = {"_class_name": "MotionAdapter", **config}
    _write(folder, "diffusion_pytorch_model", described, adapter.state_dict(), variant)
    return folder


def published_controlnet(folder: Path, *, share: int = 1, variant: str | None = None) -> Path:
    """A ControlNet of Stable Diffusion 1.5."""
    torch.manual_seed(2)
    unet = published_config("sd15", share=share)["unet"]
    kept = ("block_out_channels", "down_block_types", "layers_per_block", "cross_attention_dim", "attention_head_dim")
    config = {key: unet[key] for key in kept}
    config |= {"conditioning_embedding_out_channels": [16, 32, 96, 256], "controlnet_conditioning_channel_order": "rgb"}
    network = ControlNetModel(**config)
    described = {"_class_name": "ControlNetModel", **config}
    _write(folder, "diffusion_pytorch_model", described, network.state_dict(), variant)
    return folder


def published_file(
    path: Path, kind: Kind, *, share: int = 1, vocabulary: Path | None = None, half: bool = True
) -> Path:
    """One file in the original layout with what such files hold beside the weights, and tokenizers beside it."""
    config = published_config(kind, share=share)
    torch.manual_seed(0)
    unet, vae = UNet2DConditionModel(**config["unet"]), AutoencoderKL(**config["vae"])
    first = CLIPTextModel(CLIPTextConfig(**config["text_encoder"]))
    state = {**unet_file(unet), **vae_file(vae), "betas": torch.linspace(0, 1, 1000), "logvar": torch.zeros(1000)}
    positions = torch.arange(77)[None]
    write_tokenizer(path.parent / "tokenizer", vocabulary, pad="!" if kind == "sd21" else "<|endoftext|>")
    if kind == "sdxl":
        write_tokenizer(path.parent / "tokenizer_2", vocabulary, pad="!")
        second = CLIPTextModelWithProjection(CLIPTextConfig(**config["text_encoder_2"]))
        prefix = "conditioner.embedders.0.transformer."
        state |= {**clip_file(first, prefix), f"{prefix}text_model.embeddings.position_ids": positions}
        state |= open_clip_file(second, "conditioner.embedders.1.model.")
    elif kind == "sd21":
        state |= open_clip_file(first, "cond_stage_model.model.")
        # The last of OpenCLIP's blocks is in the file and not in use: the states before it are.
        last = "cond_stage_model.model.transformer.resblocks."
        state |= {key.replace(f"{last}22.", f"{last}23."): value for key, value in state.items() if f"{last}22." in key}
    else:
        prefix = "cond_stage_model.transformer."
        state |= {**clip_file(first, prefix), f"{prefix}text_model.embeddings.position_ids": positions}
    tensors = {key: (v.half() if half and v.is_floating_point() else v).contiguous() for key, v in state.items()}
    save_file(tensors, path)
    return path
