"""One `.safetensors` file in the original Stable Diffusion or SDXL key layout, read offline.

The conversion of keys is diffusers'; the component configs ship in `configs/`, so nothing is fetched. The CLIP
vocabulary is not part of such files: it is taken from a `tokenizer` folder beside the file or from the hub cache.
"""

from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.loaders.single_file_utils import (
    convert_ldm_clip_checkpoint,
    convert_ldm_unet_checkpoint,
    convert_ldm_vae_checkpoint,
    convert_open_clip_checkpoint,
)
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from pcs_ext.config_io import read_json
from pcs_ext.errors import ModelError
from pcs_ext.image.backbones.clip_tokenizer import cached_clip_tokenizer, read_clip_tokenizer

_CONFIGS = Path(__file__).parent / "configs"
_UNET_KEY = "model.diffusion_model.input_blocks.0.0.weight"
_TOKENIZERS = {
    "sd1": ("openai/clip-vit-large-patch14", ""),
    "sd2": ("stabilityai/stable-diffusion-2", "tokenizer"),
}
"""Hub repository and the folder in it, by kind."""


def load_single_file(path: Path) -> dict[str, Any]:
    """Components of a checkpoint, by the names `load.py` uses.

    Raises:
        ModelError: missing file, unknown layout, or no tokenizer at hand.
    """
    if not path.is_file():
        raise ModelError(f"{path} was looked for and is not there; check the path of --base.")
    state = load_file(path)
    version = _version(path, state)
    config = read_json(_CONFIGS / f"{version}.json")
    encoders, tokenizers = _text(path, state, version, config)
    unet = UNet2DConditionModel(**config["unet"])
    vae = AutoencoderKL(**config["vae"])
    _fill(unet, convert_ldm_unet_checkpoint(dict(state), config=dict(unet.config)), path)
    _fill(vae, convert_ldm_vae_checkpoint(dict(state), config=dict(vae.config)), path)
    return {
        "family": "sdxl" if version == "sdxl" else "sd",
        "unet": unet,
        "vae": vae,
        "text_encoders": encoders,
        "tokenizers": tokenizers,
        "scheduler": config["scheduler"],
    }


def _version(path: Path, state: dict[str, Tensor]) -> str:
    """sd1, sd2 (512 px, epsilon), sd2-v (768 px, v) or sdxl, from the keys and shapes."""
    if _UNET_KEY not in state:
        raise ModelError(
            f"{path} is no Stable Diffusion checkpoint in the original layout (no key {_UNET_KEY}). For a LoRA or an "
            "embedding pass the base it belongs to; for a diffusers model pass its folder."
        )
    if "conditioner.embedders.1.model.ln_final.weight" in state:
        return "sdxl"
    if "cond_stage_model.transformer.text_model.final_layer_norm.weight" in state:
        return "sd1"
    if "cond_stage_model.model.ln_final.weight" in state:
        # The two SD 2.x kinds have equal keys; as in the original tools, the file name tells them apart.
        return "sd2-v" if "768" in path.stem or "v-pred" in path.stem.lower() else "sd2"
    raise ModelError(f"{path} has no text encoder that is known; expected that of Stable Diffusion 1.x, 2.x or SDXL.")


def _text(
    path: Path, state: dict[str, Tensor], version: str, config: dict[str, Any]
) -> tuple[list[nn.Module], list[Any]]:
    first = CLIPTextModel(CLIPTextConfig(**config["text_encoder"]))
    if version == "sd1":
        _fill(first, convert_ldm_clip_checkpoint(dict(state)), path)
        return [first], [_tokenizer(path, "tokenizer", "sd1")]
    if version.startswith("sd2"):
        converted = convert_open_clip_checkpoint(first, dict(state), prefix="cond_stage_model.model.")
        _fill(first, converted, path)
        return [first], [_tokenizer(path, "tokenizer", "sd2")]
    remove = "conditioner.embedders.0.transformer."
    _fill(first, convert_ldm_clip_checkpoint(dict(state), remove_prefix=remove), path)
    second = CLIPTextModelWithProjection(CLIPTextConfig(**config["text_encoder_2"]))
    _fill(second, convert_open_clip_checkpoint(second, dict(state), prefix="conditioner.embedders.1.model."), path)
    return [first, second], [_tokenizer(path, "tokenizer", "sd1"), _tokenizer(path, "tokenizer_2", "sd2")]


def _fill(module: nn.Module, converted: dict[str, Tensor], path: Path) -> None:
    """Load converted weights strictly; the `text_model.` prefix is dropped where the module has none."""
    own = module.state_dict()
    renamed = {}
    for key, value in converted.items():
        short = key.removeprefix("text_model.")
        renamed[key if key in own else short] = value.to(torch.float32)
    renamed = {key: value for key, value in renamed.items() if not key.endswith("position_ids")}
    missing, unexpected = sorted(own.keys() - renamed.keys()), sorted(renamed.keys() - own.keys())
    if missing or unexpected:
        raise ModelError(
            f"{path} does not fit {type(module).__name__}: {len(missing)} weights missing ({', '.join(missing[:3])}), "
            f"{len(unexpected)} unknown ({', '.join(unexpected[:3])}). The file is incomplete or of another family."
        )
    module.load_state_dict(renamed)


def _tokenizer(path: Path, folder: str, kind: str) -> Any:
    beside = path.parent / folder
    if beside.is_dir():
        return read_clip_tokenizer(beside)
    repository, subfolder = _TOKENIZERS[kind]
    tokenizer = cached_clip_tokenizer(repository, subfolder)
    if tokenizer is None:
        include = f" --include '{subfolder}/*'" if subfolder else ""
        raise ModelError(
            f"{path} needs CLIP's tokenizer, which such files do not contain: put the folder {folder}/ of a diffusers "
            f"model beside it ({beside}), or run `hf download {repository}{include}` once."
        )
    return tokenizer
