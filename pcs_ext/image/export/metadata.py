"""The header strings that trainers write and user interfaces show: `ss_*` (sd-scripts) and `modelspec.*` (1.0.1)."""

import base64
import datetime
import hashlib
import io
import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import from_jsonable
from pcs_ext.errors import ArtifactError, ConfigError
from pcs_ext.image.adapters import PROMPT_ADAPTERS, CrossAttentionConfig, EmbeddingConfig, LowRankConfig
from pcs_ext.image.concept import Concept
from pcs_ext.image.export.files import ExportOptions
from pcs_ext.image.export.modules import TrainedModule, adapter_configs, learned_tokens

_THUMBNAIL_SIDE = 256
_COMPONENTS = ("denoiser", "text_encoder", "text_encoder_2")
_OPTIMIZERS = {"adamw": "torch.optim.adamw.AdamW", "adam": "torch.optim.adam.Adam", "sgd": "torch.optim.sgd.SGD"}
_TEXT_WIDTHS = {768: "stable-diffusion-v1", 1024: "stable-diffusion-v2-512"}


def trigger_phrase(data: ArtifactData) -> str:
    """What prompts write to get the subject: "sks dog", "<rex>".

    Raises:
        ArtifactError: the artifact's concept is not readable.
    """
    try:
        return from_jsonable(Concept, data.concept, where="the artifact's concept").name
    except ConfigError as error:
        raise ArtifactError(str(error)) from None


def architecture(data: ArtifactData, text_width: int | None) -> str:
    """Model specification's id of the base, or `FAMILY-WIDTH` for one that has none (toybox).

    Args:
        data: its training facts may hold `prediction_type`.
        text_width: of the states the cross-attentions read; None: unknown.
    """
    if data.base_family == "sdxl":
        return "stable-diffusion-xl-v1-base"
    if text_width is not None and text_width not in _TEXT_WIDTHS:
        return f"{data.base_family}-{text_width}"
    name = _TEXT_WIDTHS[text_width or 768]
    v_prediction = data.training.get("prediction_type") == "v_prediction"
    return "stable-diffusion-v2-768-v" if name == "stable-diffusion-v2-512" and v_prediction else name


def model_spec(
    data: ArtifactData, options: ExportOptions, *, title: str, kind: str, text_width: int | None
) -> dict[str, str]:
    """`modelspec.*` strings, all but the hash.

    Args:
        data: the artifact.
        options: title, author, description, license.
        title: used where the options have none.
        kind: `lora` or `textual-inversion`.
        text_width: see `architecture`.
    """
    arch = architecture(data, text_width)
    default_side = {"stable-diffusion-v1": 512, "stable-diffusion-v2-512": 512, "stable-diffusion-v2-768-v": 768}
    side = data.training.get("resolution", default_side.get(arch, 1024 if data.base_family == "sdxl" else 0))
    spec = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{arch}/{kind}",
        "implementation": "diffusers",
        "title": options.title or title,
        "resolution": f"{side}x{side}",
        "trigger_phrase": trigger_phrase(data),
        "author": options.author,
        "description": options.description,
        "license": options.license,
    }
    if "prediction_type" in data.training:
        spec["prediction_type"] = "v" if data.training["prediction_type"] == "v_prediction" else "epsilon"
    if options.training_metadata:
        spec["date"] = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    if data.preview is not None:
        spec["thumbnail"] = _thumbnail(data.preview)
    return {f"modelspec.{key}": value for key, value in spec.items() if value}


def network_metadata(
    data: ArtifactData, modules: list[TrainedModule], options: ExportOptions, *, title: str
) -> dict[str, str]:
    """`ss_*` strings: the set readers need, and with `training_metadata` what interfaces show.

    Photos are counted, never named: labels of folders and captions would carry names of people.
    """
    ranks = {m.rank for m in modules if m.method != "cross_attention"}
    alphas = {round(m.scaling * m.rank, 6) for m in modules if m.method != "cross_attention"}
    width = text_width_of(modules)
    network, arguments = _network(modules)
    facts: dict[str, Any] = {
        "ss_v2": str(width == 1024),
        "ss_base_model_version": {"sdxl": "sdxl_base_v1-0"}.get(
            data.base_family, "sd_v2" if width == 1024 else "sd_v1"
        ),
        "ss_network_module": network,
        "ss_network_dim": _one(ranks),
        "ss_network_alpha": _one(alphas),
        "ss_network_args": json.dumps(arguments),
    }
    if options.training_metadata:
        facts |= _training_facts(data, title)
    return {key: str(value) for key, value in facts.items() if value not in (None, "")}


def _training_facts(data: ArtifactData, title: str) -> dict[str, Any]:
    phases, rates = data.recipe.get("phases", []), _rates(data)
    fits = [phase.get("fit", {}) for phase in phases]
    steps = data.training.get("steps", sum(fit.get("steps", 0) for fit in fits))
    photos = len(data.training.get("photos", ()))
    label = trigger_phrase(data)
    text_rates = [rate for component, rate in rates if component.startswith("text_encoder")]
    other_rates = [rate for component, rate in rates if component == "denoiser"]
    prior = [phase.get("objective", {}).get("prior_loss_weight", 0) for phase in phases]
    return {
        "ss_output_name": title,
        "ss_sd_model_name": Path(data.base_name).name,
        "ss_resolution": _side(data),
        "ss_num_train_images": photos,
        "ss_num_reg_images": data.recipe.get("class_images", 0),
        "ss_steps": steps,
        "ss_max_train_steps": steps,
        "ss_learning_rate": max((rate for _, rate in rates), default=None),
        "ss_unet_lr": max(other_rates, default=None),
        "ss_text_encoder_lr": max(text_rates, default=None),
        "ss_lr_scheduler": fits[0].get("lr_schedule") if fits else None,
        "ss_optimizer": _OPTIMIZERS.get(fits[-1].get("optimizer", "adamw")) if fits else None,
        "ss_seed": data.training.get("seed"),
        "ss_prior_loss_weight": max(prior, default=None),
        "ss_session_id": int(data.content_hash[:8], 16),
        "ss_training_comment": f"pcs_ext recipe {data.recipe.get('id', '?')}, artifact {data.content_hash}",
        "ss_tag_frequency": json.dumps({label: {label: photos}}),
        "ss_dataset_dirs": json.dumps({label: {"n_repeats": 1, "img_count": photos}}),
    }


def _rates(data: ArtifactData) -> list[tuple[str, float]]:
    """Component and learning rate of all that trained layers of it; learned words are not in the file."""
    configs, found = adapter_configs(data), []
    for phase in data.recipe.get("phases", []):
        for key, rate in phase.get("learning_rates", {}).items():
            name, _, group = key.partition("/")
            if (config := configs.get(name)) is None or isinstance(config, (EmbeddingConfig, *PROMPT_ADAPTERS)):
                continue
            components = (group,) if group in _COMPONENTS else getattr(config, "components", ("denoiser",))
            found += [(component, rate) for component in components]
    return found


def _side(data: ArtifactData) -> str | None:
    side = data.training.get("resolution")
    return None if side is None else str((side, side))


def _network(modules: list[TrainedModule]) -> tuple[str, dict[str, Any]]:
    """sd-scripts' name of the network module, and its arguments."""
    methods = {module.method for module in modules}
    if methods == {"lora"}:
        convolutions = [m for m in modules if m.tensors["lora_A.weight"].dim() == 4]
        return "networks.lora", {"conv_dim": convolutions[0].rank} if convolutions else {}
    algo = {"lora": "lora", "dora": "lora", "loha": "loha", "lokr": "lokr", "cross_attention": "full"}
    arguments: dict[str, Any] = {"algo": _one({algo[method] for method in methods})}
    if "dora" in methods:
        arguments |= {"dora_wd": True, "wd_on_output": True}
    factors = {m.config.lokr_factor for m in modules if m.method == "lokr" and isinstance(m.config, LowRankConfig)}
    if factors:
        arguments["factor"] = _one(factors)
    return "lycoris.kohya", arguments


def _one(values: set[Any]) -> Any:
    """The value all share, sd-scripts' word for several, None for none."""
    return next(iter(values)) if len(values) == 1 else ("Dynamic" if values else None)


def text_width_of(modules: list[TrainedModule]) -> int | None:
    """Width of the text states, read off a cross-attention's key projection; None where none was trained."""
    for module in modules:
        if module.path.endswith(("attn2.to_k", "attn2.to_v")):
            if isinstance(module.config, CrossAttentionConfig):
                return module.tensors["delta"].shape[1]
            if "lora_A.weight" in module.tensors:
                return module.tensors["lora_A.weight"].shape[1]
            if "hada_w1_b" in module.tensors:
                return module.tensors["hada_w1_b"].shape[1]
            if module.method == "lokr":
                # The Kronecker product is as wide as both factors are, multiplied.
                return math.prod(_wide(module, factor) for factor in ("lokr_w1", "lokr_w2"))
    return None


def _wide(module: TrainedModule, factor: str) -> int:
    """Width of a factor, full or in two parts."""
    return (module.tensors[factor] if factor in module.tensors else module.tensors[f"{factor}_b"]).shape[1]


def token_width(data: ArtifactData) -> int | None:
    """Width of the first encoder's learned rows, which for one-encoder families is that of the text states."""
    tokens = learned_tokens(data)
    return tokens[0].rows["text_encoder"].shape[1] if tokens else None


def with_hashes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """Add what interfaces identify a file by.

    `sshs_model_hash`: sha256 of all bytes after the header. `sshs_legacy_hash`: 8 digits of the sha256 of 64 KiB at
    1 MiB of the file with `ss_*` strings only. `modelspec.hash_sha256`: the former with 0x.
    """
    training = {key: value for key, value in metadata.items() if key.startswith("ss_")}
    content = save(dict(sorted(tensors.items())), training)
    (header,) = struct.unpack("<Q", content[:8])
    model = hashlib.sha256(content[8 + header :]).hexdigest()
    legacy = hashlib.sha256(content[0x100000:0x110000]).hexdigest()[:8]
    hashes = {"sshs_model_hash": model, "sshs_legacy_hash": legacy, "modelspec.hash_sha256": f"0x{model}"}
    return {**metadata, **hashes}


def _thumbnail(preview: bytes) -> str:
    """A small JPEG of the picture as a data URI."""
    from PIL import Image

    with Image.open(io.BytesIO(preview)) as picture:
        small = picture.convert("RGB")
    small.thumbnail((_THUMBNAIL_SIDE, _THUMBNAIL_SIDE))
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
