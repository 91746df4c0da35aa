"""Writes models of the original Stable Diffusion and SDXL key layout, from the layout's description."""

import re
from typing import Any

import torch
from torch import Tensor

_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_OUTSIDE = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def unet_keys(state: dict[str, Tensor], *, levels: int, layers: int = 2) -> dict[str, Tensor]:
    """Keys of a UNet: every level is `layers` blocks, then one that resizes; upwards it is one block more."""
    made = {}
    for key, value in state.items():
        made["model.diffusion_model." + _unet_key(key, levels, layers)] = value
    assert len(made) == len(state)
    return made


def _unet_key(key: str, levels: int, layers: int) -> str:
    for ours, theirs in _OUTSIDE.items():
        if key.startswith(ours + "."):
            return theirs + key[len(ours) :]
    part, rest = key.split(".", 1)
    if part == "mid_block":
        kind, index, rest = rest.split(".", 2)
        place = 1 if kind == "attentions" else 2 * int(index)
        return f"middle_block.{place}.{_inner(kind, rest)}"
    level, kind, index, rest = rest.split(".", 3)
    down = part == "down_blocks"
    blocks = layers + 1
    if kind == "downsamplers":
        return f"input_blocks.{(int(level) + 1) * blocks}.0.op.{rest.removeprefix('conv.')}"
    if kind == "upsamplers":
        # After the attention of its level's last block, or in its place where the level has none.
        place = 1 if level == "0" and levels > 1 and not _has_attention(key) else 2
        return f"output_blocks.{int(level) * blocks + layers}.{place}.{rest}"
    number = int(level) * blocks + int(index) + (1 if down else 0)
    side = "input_blocks" if down else "output_blocks"
    return f"{side}.{number}.{1 if kind == 'attentions' else 0}.{_inner(kind, rest)}"


_ATTENTION_LEVELS: set[str] = set()


def _has_attention(key: str) -> bool:
    return ".".join(key.split(".")[:2]) in _ATTENTION_LEVELS


def _inner(kind: str, rest: str) -> str:
    if kind == "attentions":
        return rest
    name, leaf = rest.rsplit(".", 1)
    return f"{_RESNET[name]}.{leaf}"


def unet_file(unet: Any) -> dict[str, Tensor]:
    """All of a UNet's weights under their original keys."""
    state = unet.state_dict()
    _ATTENTION_LEVELS.clear()
    _ATTENTION_LEVELS.update(".".join(key.split(".")[:2]) for key in state if ".attentions." in key)
    return unet_keys(state, levels=len(unet.config.block_out_channels), layers=unet.config.layers_per_block)


def vae_file(vae: Any) -> dict[str, Tensor]:
    """All of an autoencoder's weights under their original keys; attention projections are 1 x 1 convolutions."""
    levels = len(vae.config.block_out_channels)
    made = {}
    for key, value in vae.state_dict().items():
        new = re.sub(r"down_blocks\.(\d+)\.resnets\.(\d+)", r"down.\1.block.\2", key)
        new = re.sub(r"down_blocks\.(\d+)\.downsamplers\.0", r"down.\1.downsample", new)
        new = re.sub(r"up_blocks\.(\d+)\.resnets\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}.block.{m[2]}", new)
        new = re.sub(r"up_blocks\.(\d+)\.upsamplers\.0", lambda m: f"up.{levels - 1 - int(m[1])}.upsample", new)
        new = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", new)
        new = new.replace("mid_block.attentions.0", "mid.attn_1").replace("conv_norm_out", "norm_out")
        new = new.replace("conv_shortcut", "nin_shortcut")
        if "attn_1" in new:
            for ours, theirs in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v")):
                new = new.replace(f".{ours}.", f".{theirs}.")
            new = new.replace("to_out.0", "proj_out")
            value = value[:, :, None, None] if value.dim() == 2 else value
        made["first_stage_model." + new] = value
    return made


def clip_file(encoder: Any, prefix: str = "cond_stage_model.transformer.") -> dict[str, Tensor]:
    """A CLIP text encoder as SD 1.x holds it."""
    return {f"{prefix}text_model.{key.removeprefix('text_model.')}": v for key, v in encoder.state_dict().items()}


def open_clip_file(encoder: Any, prefix: str) -> dict[str, Tensor]:
    """A text encoder as OpenCLIP, and so SD 2.x and SDXL, holds it: q, k and v in one matrix."""
    made: dict[str, Tensor] = {}
    state = {key.removeprefix("text_model."): value for key, value in encoder.state_dict().items()}
    inner = {
        "layer_norm1": "ln_1",
        "layer_norm2": "ln_2",
        "mlp.fc1": "mlp.c_fc",
        "mlp.fc2": "mlp.c_proj",
        "self_attn.out_proj": "attn.out_proj",
    }
    for key, value in state.items():
        if match := re.fullmatch(r"encoder\.layers\.(\d+)\.(.+)\.(weight|bias)", key):
            layer, name, leaf = match.groups()
            if name in inner:
                made[f"transformer.resblocks.{layer}.{inner[name]}.{leaf}"] = value
            elif name == "self_attn.q_proj":
                parts = [state[f"encoder.layers.{layer}.self_attn.{p}_proj.{leaf}"] for p in "qkv"]
                made[f"transformer.resblocks.{layer}.attn.in_proj_{leaf}"] = torch.cat(parts)
    made["token_embedding.weight"] = state["embeddings.token_embedding.weight"]
    made["positional_embedding"] = state["embeddings.position_embedding.weight"]
    for leaf in ("weight", "bias"):
        made[f"ln_final.{leaf}"] = state[f"final_layer_norm.{leaf}"]
    # OpenCLIP multiplies from the right: its projection is the transpose of a linear layer's weight.
    projection = state.get("text_projection.weight")
    width = state["final_layer_norm.weight"].shape[0]
    made["text_projection"] = torch.eye(width) if projection is None else projection.T.contiguous()
    made["logit_scale"] = torch.tensor(4.6)
    return {prefix + key: value for key, value in made.items()}
