"""Any weight adapter merged into the weights: component folders in diffusers' layout, for every tool that loads those.

    OUTPUT/unet/           UNet2DConditionModel.from_pretrained("OUTPUT/unet")
    OUTPUT/text_encoder/   if its layers were trained

Put them in the place of the same folders of the base model.
"""

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pcs_ext.artifact import ArtifactData
from pcs_ext.config_io import atomic_folder
from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import AbstractAdapter, EmbeddingConfig, build_adapter, injected
from pcs_ext.image.adapters.layers import canonical_path, merged_weights, original_modules
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.export.diffusers_lora import PREFIXES
from pcs_ext.image.export.files import ExportOptions
from pcs_ext.image.export.modules import EXPRESSIBLE, LEFT_OUT, adapter_configs, cannot_express, method_of


def export_diffusers_model(
    data: ArtifactData, backbone: AbstractBackbone, output: Path, options: ExportOptions | None = None
) -> list[Path]:
    """Merge all weight adapters into the backbone's weights and write the components they changed.

    Args:
        data: the artifact; learned tokens are not part of the result (export them as textual-inversion).
        backbone: the base the subject was learned on; it is left as it was.
        output: the folder.
        options: precision, overwriting.

    Returns:
        The component folders.

    Raises:
        UsageError: only tokens were learned, a folder exists, or the output is the base.
        ArtifactError: the artifact does not fit this backbone.
    """
    options = options or ExportOptions()
    if Path(output).resolve() == Path(backbone.name).expanduser().resolve():
        raise UsageError(f"--output {output} is the base itself, which is never changed; choose another folder.")
    adapters, components = _weight_adapters(data)
    folders = {name: Path(output) / PREFIXES[name] for name in PREFIXES if name in components}
    for folder in folders.values():
        _check_folder(folder, options)
    with injected(backbone, *adapters), torch.no_grad():
        for name, folder in folders.items():
            component: Any = backbone.components()[name]
            with atomic_folder(folder) as temporary:
                state = {key: _cast(value, options) for key, value in merged_state(name, component).items()}
                if name == "denoiser":
                    component.save_config(temporary)
                    save_file(state, temporary / "diffusion_pytorch_model.safetensors", {"format": "pt"})
                else:
                    component.config.save_pretrained(temporary)
                    save_file(state, temporary / "model.safetensors", {"format": "pt"})
    return list(folders.values())


def _weight_adapters(data: ArtifactData) -> tuple[list[AbstractAdapter], set[str]]:
    adapters: list[AbstractAdapter] = []
    components: set[str] = set()
    for name, config in adapter_configs(data).items():
        if isinstance(config, (EmbeddingConfig, *LEFT_OUT)):
            continue
        if method_of(config) not in EXPRESSIBLE["diffusers-model"].split(", "):
            raise UsageError(cannot_express(method_of(config), "diffusers-model"))
        adapter = build_adapter(name, config)
        adapter.load_state_dict(data.tensors_of(name))
        adapters.append(adapter)
        components |= set(getattr(config, "components", ("denoiser",)))
    if not adapters:
        raise UsageError("this subject changed no weights, it learned tokens only; export it as textual-inversion.")
    return adapters, components


def _check_folder(folder: Path, options: ExportOptions) -> None:
    if not folder.exists():
        return
    if not (folder / "config.json").is_file():
        raise UsageError(f"{folder} exists and is not a model folder, so it is not replaced; choose another --output.")
    if not options.overwrite:
        raise UsageError(f"{folder} exists already; choose another --output or pass --overwrite to replace it.")


def merged_state(name: str, component: nn.Module) -> dict[str, Tensor]:
    """The component's own state dict, with everything in front of its layers merged into them."""
    merged = merged_weights(component)
    state: dict[str, Tensor] = {}
    for path, module in original_modules(component):
        own = {**module._parameters, **module._buffers}
        for key, value in own.items():
            if value is None or key in module._non_persistent_buffers_set:
                continue
            full_key = canonical_path(name, f"{path}.{key}" if path else key)
            state[full_key] = merged[path] if key == "weight" and path in merged else value
    return state


def _cast(tensor: Tensor, options: ExportOptions) -> Tensor:
    value = tensor.detach().cpu()
    return options.cast(value) if value.is_floating_point() else value.contiguous().clone()
