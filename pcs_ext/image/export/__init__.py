"""A learned subject in the formats of other tools. What a format cannot express is an error that names one that can."""

from pathlib import Path
from typing import Literal, get_args

from pcs_ext.artifact import ArtifactData
from pcs_ext.errors import UsageError
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.export.advice import advice
from pcs_ext.image.export.diffusers_lora import export_diffusers_lora
from pcs_ext.image.export.diffusers_model import export_diffusers_model
from pcs_ext.image.export.files import ExportOptions
from pcs_ext.image.export.kohya import export_kohya
from pcs_ext.image.export.peft_folder import export_peft
from pcs_ext.image.export.textual_inversion import export_textual_inversion

ExportFormat = Literal["diffusers", "peft", "kohya", "textual-inversion", "diffusers-model"]


def export_artifact(
    data: ArtifactData,
    format: str,
    output: Path,
    options: ExportOptions | None = None,
    *,
    backbone: AbstractBackbone | None = None,
) -> list[Path]:
    """Write a learned subject in another tool's format.

    Args:
        data: the artifact.
        format: `diffusers` (LoRA file for `load_lora_weights`), `peft` (a folder per component), `kohya` (ComfyUI,
            A1111, Forge, InvokeAI), `textual-inversion` (learned tokens), `diffusers-model` (weights merged).
        output: file for `kohya`; file or folder for `diffusers`; folder for the others.
        options: precision, metadata, overwriting.
        backbone: the base, for `diffusers-model` only.

    Returns:
        The files or folders written.

    Raises:
        UsageError: unknown format, the artifact holds what the format cannot express, or something is there already.
    """
    if format == "diffusers":
        return [export_diffusers_lora(data, output, options)]
    if format == "kohya":
        return [export_kohya(data, output, options)]
    if format == "peft":
        return export_peft(data, output, options)
    if format == "textual-inversion":
        return export_textual_inversion(data, output, options)
    if format == "diffusers-model":
        if backbone is None:
            raise UsageError("the diffusers-model format merges into the base's weights and needs the base loaded.")
        return export_diffusers_model(data, backbone, output, options)
    raise UsageError(f"export format {format!r} is unknown; expected one of {', '.join(get_args(ExportFormat))}.")


__all__ = [
    "ExportFormat",
    "ExportOptions",
    "advice",
    "export_artifact",
    "export_diffusers_lora",
    "export_diffusers_model",
    "export_kohya",
    "export_peft",
    "export_textual_inversion",
]
