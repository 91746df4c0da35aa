"""From what a user types to a video backbone."""

import json
from pathlib import Path

import torch
from diffusers import UNet3DConditionModel
from safetensors import SafetensorError

from pcs_ext.errors import ModelError, UsageError
from pcs_ext.image.backbones.load import assemble, hub_folder, load_backbone, load_folder
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import choose_device, choose_dtype
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone
from pcs_ext.video.backbones.modelscope import ModelScopeBackbone
from pcs_ext.video.backbones.motion_files import load_motion_adapter
from pcs_ext.video.backbones.wan_folder import load_wan


def load_video_backbone(
    base: str | Path,
    motion: str | Path | None = None,
    *,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> AbstractVideoBackbone:
    """Load a video model, frozen, in eval mode.

    Args:
        base: a ModelScope, ZeroScope or Wan 2.1 text-to-video folder or hub id; or, with `motion`, any Stable
            Diffusion 1.x or 2.x model that `load_backbone` takes.
        motion: motion adapter: a folder, or a `.safetensors` file in AnimateDiff's own layout.
        device: auto, cuda, mps or cpu.
        precision: auto, fp32, bf16 or fp16.
        reporter: told what was chosen.

    Raises:
        ModelError: a model is missing, incomplete, damaged or a pickle, or the two do not fit.
        UsageError: an image model without a motion adapter, or a video model with one.
    """
    reporter = reporter or SilentReporter()
    folder = _text_to_video_folder(base)
    if folder is None:
        if motion is None:
            raise UsageError(
                f"{base} makes pictures; for clips name a motion adapter too (a folder or a .safetensors file), or "
                "take a text-to-video model such as a ModelScope folder."
            )
        image = load_backbone(base, device=device, precision=precision, reporter=reporter)
        if image.family != "sd":
            raise UsageError(f"motion adapters here are for Stable Diffusion 1.x and 2.x, {base} is {image.family}.")
        groups = image.denoiser.config["norm_num_groups"]
        return AnimateDiffBackbone(image, load_motion_adapter(motion, norm_groups=groups), name=f"{base} + {motion}")
    if motion is not None:
        raise UsageError(f"{base} makes clips by itself and takes no motion adapter, got {motion}.")
    place = choose_device(device)
    dtype = choose_dtype(precision, place)
    if not (folder / "unet").is_dir():
        return load_wan(str(base), folder, place, dtype)
    return _load_modelscope(str(base), folder, place, dtype)


def _load_modelscope(name: str, folder: Path, device: torch.device, dtype: torch.dtype) -> ModelScopeBackbone:
    try:
        parts = load_folder(folder, denoiser=UNet3DConditionModel)
    except SafetensorError as error:
        raise ModelError(f"a weight file of {name} is damaged ({error}); fetch it again.") from None
    backbone = assemble(name, parts, device, dtype, kind=ModelScopeBackbone)
    assert isinstance(backbone, ModelScopeBackbone)
    return backbone


def _text_to_video_folder(base: str | Path) -> Path | None:
    """The folder of a text-to-video pipeline; None for everything that the image core loads."""
    path = Path(base).expanduser()
    if str(base) == "toybox" or path.suffix:
        return None
    folder = path if path.is_dir() else hub_folder(str(base))
    index = folder / "model_index.json"
    try:
        entries = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{index} is not valid JSON ({error}); fetch the model again.") from None
    video_unet = entries.get("unet", [None, None])[1] == "UNet3DConditionModel"
    return folder if video_unet or "transformer" in entries else None
