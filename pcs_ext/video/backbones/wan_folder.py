"""Wan's diffusers folder: transformer/, vae/, text_encoder/, tokenizer/, scheduler/."""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from transformers import AutoTokenizer, UMT5EncoderModel

from pcs_ext.errors import ConfigError, ModelError
from pcs_ext.image.backbones.load import load_strictly, read_json
from pcs_ext.image.backbones.weight_files import weight_files
from pcs_ext.image.flow import FlowSchedule
from pcs_ext.video.backbones.wan import WanBackbone

_WEIGHTS = ("transformer", "vae", "text_encoder")
_CLASSES = {"transformer": "WanTransformer3DModel", "vae": "AutoencoderKLWan", "text_encoder": "UMT5EncoderModel"}


def load_wan(name: str, folder: Path, device: torch.device, dtype: torch.dtype) -> WanBackbone:
    """A Wan 2.1 text-to-video model, frozen, in eval mode.

    Args:
        name: what the user typed.
        folder: as diffusers writes it.
        device: where it goes.
        dtype: of transformer and text encoder; the autoencoder stays in float32.

    Raises:
        ModelError: a part is missing, damaged or of another model; or it is one of Wan's other models: image to video,
            or 2.2 with its two transformers or timesteps by token.
    """
    _check_index(name, read_json(folder, "model_index.json"))
    _check_parts(folder)
    try:
        schedule = FlowSchedule.from_config(read_json(folder, "scheduler/scheduler_config.json"))
        denoiser = load_strictly(WanTransformer3DModel, folder / "transformer", dtype=torch.float32)
        vae = load_strictly(AutoencoderKLWan, folder / "vae", dtype=torch.float32)
        encoder = load_strictly(UMT5EncoderModel, folder / "text_encoder", dtype=dtype)
        tokenizer = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
    except ConfigError as error:
        raise ModelError(f"{folder / 'scheduler'}: {error}") from None
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} cannot be read ({error}); fetch the model again.") from None
    channels = (denoiser.config["in_channels"], denoiser.config["out_channels"])
    if denoiser.config["image_dim"] is not None or set(channels) != {vae.config["z_dim"]}:
        raise ModelError(
            f"{name} takes pictures beside text ({channels[0]} channels in, {channels[1]} out); expected a "
            "text-to-video model such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers."
        )
    return WanBackbone(
        name=name,
        denoiser=denoiser,
        vae=vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        schedule=schedule,
        device=device,
        dtype=dtype,
    )


def _check_index(name: str, index: dict[str, Any]) -> None:
    for part, expected in _CLASSES.items():
        got = (index.get(part) or [None, None])[1]
        if got != expected:
            raise ModelError(
                f"{name} has {got or 'nothing'} as {part}, expected {expected}: of the transformers that make clips, "
                "Wan 2.1's text-to-video models are known here."
            )
    second = (index.get("transformer_2") or [None])[0]
    if second or index.get("boundary_ratio") is not None or index.get("expand_timesteps"):
        raise ModelError(
            f"{name} is a Wan 2.2 model (two transformers, or timesteps by token); expected one of Wan 2.1's."
        )


def _check_parts(folder: Path) -> None:
    for part in (*_WEIGHTS, "tokenizer", "scheduler"):
        if not (folder / part).is_dir():
            raise ModelError(f"{folder} has no folder {part}/; expected a complete diffusers pipeline folder.")
    for part in _WEIGHTS:
        weight_files(folder / part)
