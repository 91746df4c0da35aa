"""The LoRA file of diffusers: `pytorch_lora_weights.safetensors`, for `pipeline.load_lora_weights(folder)`."""

import json
from pathlib import Path
from typing import Any

from torch import Tensor

from pcs_ext.artifact import ArtifactData
from pcs_ext.errors import UsageError
from pcs_ext.image.export.files import ExportOptions, write_safetensors
from pcs_ext.image.export.modules import TrainedModule, trained_modules

FILE_NAME = "pytorch_lora_weights.safetensors"
PREFIXES = {"denoiser": "unet", "text_encoder": "text_encoder", "text_encoder_2": "text_encoder_2"}


def export_diffusers_lora(data: ArtifactData, output: Path, options: ExportOptions | None = None) -> Path:
    """Write LoRA or DoRA layers.

    The scale is folded into `lora_B`, and the header's `lora_adapter_metadata` says alpha = rank: versions of diffusers
    that do not read the header take alpha for the rank, so every reader applies the same strength.

    Args:
        data: the artifact.
        output: a folder, or a `.safetensors` file.
        options: precision, overwriting.

    Returns:
        The file.

    Raises:
        UsageError: the artifact holds what the format cannot express, or the file exists.
    """
    options = options or ExportOptions()
    output = Path(output)
    file = output if output.suffix == ".safetensors" else output / FILE_NAME
    modules = trained_modules(data, target="diffusers", allowed=("lora", "dora"))
    tensors: dict[str, Tensor] = {}
    metadata: dict[str, Any] = {}
    for component, prefix in PREFIXES.items():
        members = [module for module in modules if module.component == component]
        if members:
            tensors |= {f"{prefix}.{key}": value for m in members for key, value in _tensors(m, options).items()}
            metadata |= {f"{prefix}.{key}": value for key, value in _config(members).items()}
    header = {"lora_adapter_metadata": json.dumps(metadata, sort_keys=True)}
    return write_safetensors(file, tensors, header, options)


def _tensors(module: TrainedModule, options: ExportOptions) -> dict[str, Tensor]:
    stored = module.tensors
    tensors = {
        "lora_A.weight": options.cast(stored["lora_A.weight"]),
        "lora_B.weight": options.cast(stored["lora_B.weight"] * module.scaling),
    }
    if module.method == "dora":
        # Text encoders are loaded by transformers, which (5.x) looks for `.weight` and without it silently takes
        # starting magnitudes; UNets by peft, which adds `.weight` itself.
        suffix = "" if module.component == "denoiser" else ".weight"
        tensors[f"lora_magnitude_vector{suffix}"] = options.cast(stored["lora_magnitude_vector"])
    return {f"{module.path}.{key}": value for key, value in tensors.items()}


def _config(modules: list[TrainedModule]) -> dict[str, Any]:
    """peft's settings of one component."""
    if len({module.method for module in modules}) > 1:
        raise UsageError("lora and dora layers in one component cannot share a diffusers file; export as kohya.")
    rank = modules[0].rank
    # Without `text_model.`: such a name matches text encoders with and without that level.
    ranks = {module.path.removeprefix("text_model."): module.rank for module in modules}
    others = {path: other for path, other in ranks.items() if other != rank}
    return {
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": others,
        "alpha_pattern": others,
        "target_modules": sorted(ranks),
        "use_dora": modules[0].method == "dora",
        "bias": "none",
    }
