"""peft's folder: `adapter_config.json` and `adapter_model.safetensors`, one per component, for Python users.

OUTPUT/unet/           PeftModel.from_pretrained(pipeline.unet, "OUTPUT/unet")
OUTPUT/text_encoder/   likewise, if text encoder layers were trained
"""

import functools
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import atomic_folder
from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import LowRankConfig
from pcs_ext.image.export.diffusers_lora import PREFIXES
from pcs_ext.image.export.files import ExportOptions
from pcs_ext.image.export.modules import TrainedModule, trained_modules


def export_peft(data: ArtifactData, output: Path, options: ExportOptions | None = None) -> list[Path]:
    """Write one folder per component, with the true alpha.

    Returns:
        The folders.

    Raises:
        UsageError: the artifact holds what the format cannot express, or a folder exists.
    """
    options = options or ExportOptions()
    modules = trained_modules(data, target="peft", allowed=("lora", "dora", "loha", "lokr", "oft"))
    parts = {prefix: [m for m in modules if m.component == name] for name, prefix in PREFIXES.items()}
    parts = {prefix: members for prefix, members in parts.items() if members}
    configs = {prefix: _peft_config(members) for prefix, members in parts.items()}
    folders = [Path(output) / prefix for prefix in parts]
    for folder in folders:
        _check_folder(folder, options)
    for folder, (prefix, members) in zip(folders, parts.items(), strict=True):
        with atomic_folder(folder) as temporary:
            tensors = {key: value for m in members for key, value in _tensors(m, options).items()}
            save_file(dict(sorted(tensors.items())), temporary / "adapter_model.safetensors", {"format": "pt"})
            configs[prefix].save_pretrained(str(temporary))
    return folders


def _check_folder(folder: Path, options: ExportOptions) -> None:
    if not folder.exists():
        return
    if not (folder / "adapter_config.json").is_file():
        raise UsageError(f"{folder} exists and is not a peft folder, so it is not replaced; choose another --output.")
    if not options.overwrite:
        raise UsageError(f"{folder} exists already; choose another --output or pass --overwrite to replace it.")


def _tensors(module: TrainedModule, options: ExportOptions) -> dict[str, Tensor]:
    path = _reader_path(module)
    return {f"base_model.model.{path}.{key}": options.cast(value) for key, value in module.tensors.items()}


def _reader_path(module: TrainedModule) -> str:
    """The path in the module tree that the installed transformers builds: peft matches names exactly."""
    if module.component == "text_encoder" and not _text_encoder_has_inner_model():
        return module.path.removeprefix("text_model.")
    return module.path


@functools.cache
def _text_encoder_has_inner_model() -> bool:
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=4, hidden_size=2, intermediate_size=2, num_hidden_layers=1, num_attention_heads=1
    )
    with torch.device("meta"):
        return "text_model" in dict(CLIPTextModel(config).named_children())


def _peft_config(modules: list[TrainedModule]) -> Any:
    """peft's settings of one component."""
    import peft

    configs = {module.config for module in modules}
    config = modules[0].config
    assert isinstance(config, LowRankConfig)
    if len(configs) > 1:
        raise UsageError(
            "two low-rank adapters with different settings share a component; a peft folder holds one. "
            "Export as kohya instead."
        )
    alpha: Any = config.rank if config.alpha is None else config.alpha
    common: dict[str, Any] = {"target_modules": sorted(_reader_path(m) for m in modules), "inference_mode": True}
    if config.method == "oft":
        return _oft_config(config, modules, common)
    if config.method == "loha":
        return peft.LoHaConfig(r=config.rank, alpha=alpha, **common)
    if config.method == "lokr":
        both, factor = config.lokr_decompose_both, config.lokr_factor
        return peft.LoKrConfig(r=config.rank, alpha=alpha, decompose_both=both, decompose_factor=factor, **common)
    dora, rslora = config.method == "dora", config.use_rslora
    return peft.LoraConfig(r=config.rank, lora_alpha=alpha, use_dora=dora, use_rslora=rslora, **common)


def _oft_config(config: LowRankConfig, modules: list[TrainedModule], common: dict[str, Any]) -> Any:
    import peft

    if any(module.path.rpartition(".")[2].startswith("conv") for module in modules):
        raise UsageError(
            "peft computes oft convolutions differently from their own merged weight (it adds up overlapping patches), "
            "so its folder cannot hold them; export as diffusers-model."
        )
    # n = b (b - 1) / 2 numbers per block of size b.
    sizes = {round((1 + (1 + 8 * m.tensors["oft_R.weight"].shape[1]) ** 0.5) / 2) for m in modules}
    if len(sizes) > 1:
        raise UsageError(
            f"the oft layers have blocks of different sizes {sorted(sizes)}, a peft folder stores one; "
            "export as diffusers-model."
        )
    constraint: dict[str, Any] = {} if config.oft_eps is None else {"coft": True, "eps": config.oft_eps}
    return peft.OFTConfig(r=0, oft_block_size=sizes.pop(), use_cayley_neumann=False, **constraint, **common)
