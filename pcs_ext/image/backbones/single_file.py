"""One `.safetensors` file in the original Stable Diffusion or SDXL key layout.

The conversion of keys is diffusers'; the component configs ship in `configs/`, so nothing is fetched but CLIP's
vocabulary, which is not part of such files: it is taken from a `tokenizer` folder beside the file, from the hub cache
or from the hub.
"""

from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
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
from pcs_ext.image.backbones.clip_tokenizer import FILES, hub_clip_tokenizer, read_clip_tokenizer

_CONFIGS = Path(__file__).parent / "configs"
_HALVES = (torch.float16, torch.bfloat16)
_UNET_KEY = "model.diffusion_model.input_blocks.0.0.weight"
_CLIP = "openai/clip-vit-large-patch14"
"""Whose vocabulary all of them share."""
_PADS = {"sd1": "<|endoftext|>", "sd2": "!"}
"""What OpenAI's CLIP and OpenCLIP fill prompts up with: the end mark, and the word of id 0."""
_VELOCITY_KEY = "v_pred"
"""An empty tensor by which SDXL files say that they predict v; recalled from the files that are around."""


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
    if _VELOCITY_KEY in state:
        config["scheduler"]["prediction_type"] = "v_prediction"
    # Inpainting models have more channels; which ones can be used is asked when all is there.
    config["unet"]["in_channels"] = state[_UNET_KEY].shape[1]
    # Without numbers of their own: the file's take their place, as wide as they are stored.
    with init_empty_weights(include_buffers=False):
        encoders = _empty_encoders(version, config)
        unet, vae = UNet2DConditionModel(**config["unet"]), AutoencoderKL(**config["vae"])
    tokenizers = _tokenizers(path, version)
    _fill_encoders(encoders, state, version, path)
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


def _empty_encoders(version: str, config: dict[str, Any]) -> list[nn.Module]:
    first = CLIPTextModel(CLIPTextConfig(**config["text_encoder"]))
    if version != "sdxl":
        return [first]
    return [first, CLIPTextModelWithProjection(CLIPTextConfig(**config["text_encoder_2"]))]


def _fill_encoders(encoders: list[nn.Module], state: dict[str, Tensor], version: str, path: Path) -> None:
    first, last = encoders[0], encoders[-1]
    if version.startswith("sd2"):
        _fill(first, convert_open_clip_checkpoint(first, dict(state), prefix="cond_stage_model.model."), path)
        return
    options = {"remove_prefix": "conditioner.embedders.0.transformer."} if version == "sdxl" else {}
    _fill(first, convert_ldm_clip_checkpoint(dict(state), **options), path)
    if version == "sdxl":
        _fill(last, convert_open_clip_checkpoint(last, dict(state), prefix="conditioner.embedders.1.model."), path)


def _tokenizers(path: Path, version: str) -> list[Any]:
    if version != "sdxl":
        return [_tokenizer(path, "tokenizer", version[:3])]
    return [_tokenizer(path, "tokenizer", "sd1"), _tokenizer(path, "tokenizer_2", "sd2")]


def _fill(module: nn.Module, converted: dict[str, Tensor], path: Path) -> None:
    """Load converted weights strictly; the `text_model.` prefix is dropped where the module has none."""
    own = module.state_dict()
    renamed: dict[str, Tensor] = {}
    for key, value in converted.items():
        name = key if key in own else key.removeprefix("text_model.")
        if not name.endswith("position_ids"):
            renamed[name] = value if value.dtype in _HALVES else value.to(torch.float32)
    missing, unexpected = sorted(own.keys() - renamed.keys()), sorted(renamed.keys() - own.keys())
    if missing or unexpected:
        raise ModelError(
            f"{path} does not fit {type(module).__name__}: {len(missing)} weights missing ({', '.join(missing[:3])}), "
            f"{len(unexpected)} unknown ({', '.join(unexpected[:3])}). The file is incomplete or of another family."
        )
    for key, value in renamed.items():
        if value.shape != own[key].shape:
            raise ModelError(
                f"{path} does not fit {type(module).__name__}: {key} is {tuple(value.shape)}, expected "
                f"{tuple(own[key].shape)}. It is of a model of other sizes than Stable Diffusion 1.x, 2.x and SDXL."
            )
    module.load_state_dict(renamed, assign=True)


def _tokenizer(path: Path, folder: str, kind: str) -> Any:
    """The tokenizer of a folder beside the file, else CLIP's from the hub or its cache."""
    beside = path.parent / folder
    if beside.is_dir():
        return read_clip_tokenizer(beside)
    tokenizer = hub_clip_tokenizer(_CLIP)
    if tokenizer is None:
        raise ModelError(
            f"{path} needs CLIP's tokenizer, which such files do not contain, and it could not be fetched: put the "
            f"folder {folder}/ of a diffusers model beside it ({beside}), or run once, on a machine with a connection, "
            f"`hf download {_CLIP} {' '.join(FILES)}`."
        )
    tokenizer.pad_token = _PADS[kind]
    return tokenizer
