"""Tiny motion adapters and text-to-video models with random weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNet3DConditionModel
from safetensors.torch import save_file


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


def original_layout(adapter: MotionAdapter, path: Path) -> Path:
    """The adapter under the names of AnimateDiff's own files, with a position table per attention."""
    renames = {"attn1.": "attention_blocks.0.", "attn2.": "attention_blocks.1."}
    renames |= {"norm1.": "norms.0.", "norm2.": "norms.1.", "norm3.": "ff_norm."}
    state = {}
    for key, value in adapter.state_dict().items():
        block, module, number, rest = _split(key)
        start = f"{block}.motion_modules.{number}.temporal_transformer"
        if rest.endswith("pos_embed.pe"):
            inner = rest.removesuffix("pos_embed.pe")
            for attention in (0, 1):
                state[f"{start}.{inner}attention_blocks.{attention}.pos_encoder.pe"] = value.clone()
            continue
        for new, old in renames.items():
            rest = rest.replace(new, old)
        state[f"{start}.{rest}"] = value.contiguous()
        assert module == "motion_modules"
    save_file(state, path)
    return path


def _split(key: str) -> tuple[str, str, str, str]:
    before, after = key.split(".motion_modules.")
    number, rest = after.split(".", 1)
    return before, "motion_modules", number, rest


def tiny_unet2d(*, heads: Any = (2, 4), linear: bool = False) -> UNet2DConditionModel:
    """Like Stable Diffusion 2.x's: heads of one width at all levels."""
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=heads,
        norm_num_groups=8,
        use_linear_projection=linear,
    ).eval()


def tiny_text_to_video(image_folder: Path, folder: Path) -> Path:
    """A ModelScope pipeline folder around the parts of a tiny Stable Diffusion folder."""
    shutil.copytree(image_folder, folder)
    shutil.rmtree(folder / "unet")
    torch.manual_seed(3)
    unet = UNet3DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        cross_attention_dim=16,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    for name, parameter in unet.named_parameters():
        # diffusers starts the last temporal convolution at zero; a trained one is not.
        if ".conv4." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    unet.save_pretrained(folder / "unet")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {"_class_name": "TextToVideoSDPipeline", "unet": ["diffusers", "UNet3DConditionModel"]}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder
