"""The LoRA file that ComfyUI, A1111, Forge and InvokeAI read: sd-scripts' keys, LyCORIS suffixes beside them.

    lora_unet_<module path with _>.lora_down.weight / .lora_up.weight / .alpha      effective scale = alpha / rank
    lora_te_...  (one text encoder)      lora_te1_..., lora_te2_...  (SDXL)
    .dora_scale    .hada_w1_a ...    .lokr_w1 ...    .diff

DoRA's `dora_scale` is stored per output (`out 1`), as LyCORIS with `wd_on_output` and ComfyUI read it; A1111 takes
every `dora_scale` for one per input and would apply it wrongly.
"""

from pathlib import Path

import torch
from torch import Tensor

from pcs_ext.artifact import ArtifactData
from pcs_ext.image.export.files import ExportOptions, with_suffix, write_safetensors
from pcs_ext.image.export.metadata import model_spec, network_metadata, text_width_of, with_hashes
from pcs_ext.image.export.modules import TrainedModule, trained_modules

_METHODS = ("lora", "dora", "loha", "lokr", "cross_attention")


def export_kohya(data: ArtifactData, output: Path, options: ExportOptions | None = None) -> Path:
    """Write all trained layers as one file; learned tokens need a textual-inversion file beside it.

    Returns:
        The file.

    Raises:
        UsageError: the artifact holds what the format cannot express, or the file exists.
    """
    options = options or ExportOptions()
    output = with_suffix(Path(output))
    modules = trained_modules(data, target="kohya", allowed=_METHODS)
    tensors: dict[str, Tensor] = {}
    for module in modules:
        name = module_name(module, data.base_family)
        tensors |= {f"{name}.{key}": value for key, value in _tensors(module, options).items()}
    title = output.stem
    metadata = network_metadata(data, modules, options, title=title)
    metadata |= model_spec(data, options, title=title, kind="lora", text_width=text_width_of(modules))
    return write_safetensors(output, tensors, with_hashes(tensors, metadata), options)


def module_name(module: TrainedModule, family: str) -> str:
    """The flat name of a layer."""
    first = "lora_te1" if family == "sdxl" else "lora_te"
    prefix = {"denoiser": "lora_unet", "text_encoder": first, "text_encoder_2": "lora_te2"}[module.component]
    return f"{prefix}_{module.path.replace('.', '_')}"


def _tensors(module: TrainedModule, options: ExportOptions) -> dict[str, Tensor]:
    stored = module.tensors
    if module.method == "cross_attention":
        return {"diff": options.cast(stored["delta"])}
    # One scale for all readers: alpha / rank. rsLoRA's root of the rank goes into alpha.
    alpha = {"alpha": torch.tensor(module.scaling * module.rank, dtype=torch.float32)}
    if module.method in ("lora", "dora"):
        tensors = {
            "lora_down.weight": options.cast(stored["lora_A.weight"]),
            "lora_up.weight": options.cast(stored["lora_B.weight"]),
        }
        if module.method == "dora":
            magnitude = stored["lora_magnitude_vector"].flatten()
            ones = [1] * (stored["lora_A.weight"].dim() - 1)
            tensors["dora_scale"] = options.cast(magnitude.view(-1, *ones))
        return {**tensors, **alpha}
    tensors = {key: options.cast(value) for key, value in stored.items()}
    if "lokr_w1" in stored and "lokr_w2" in stored:
        # Readers find no rank in two full factors and take the scale for 1: it goes into the smaller factor.
        tensors["lokr_w1"] = options.cast(stored["lokr_w1"] * module.scaling)
        alpha = {"alpha": torch.tensor(float(module.rank), dtype=torch.float32)}
    return {**tensors, **alpha}
