"""From what a user types to a video backbone."""

import json
from pathlib import Path

import torch
from diffusers import UNet3DConditionModel

from pcs_ext.errors import ModelError, UsageError
from pcs_ext.image.backbones.hub import model_folder
from pcs_ext.image.backbones.load import PICKLES, assemble, load_backbone, load_folder
from pcs_ext.reporter import Reporter, SilentReporter
from pcs_ext.runtime import choose_device, choose_dtype
from pcs_ext.video.backbone import AbstractVideoBackbone
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone, published_schedule
from pcs_ext.video.backbones.inflated import CrossFrame, InflatedBackbone
from pcs_ext.video.backbones.modelscope import ModelScopeBackbone
from pcs_ext.video.backbones.motion_files import load_motion_adapter
from pcs_ext.video.backbones.wan_folder import load_wan

_TOYBOX_MOTION = Path(__file__).parents[2] / "toybox" / "weights" / "motion"
_TOYBOX_FRAMES = 8
"""Of the clips that its motion adapter was trained on; it has positions for more."""
_TOYBOX_NOISE_SHARE = 0.5
"""Within what it was trained on (0 to 0.7); from independent noise its frames agree less."""


def load_video_backbone(
    base: str | Path,
    motion: str | Path | None = None,
    *,
    inflation: CrossFrame | None = None,
    device: str = "auto",
    precision: str = "auto",
    reporter: Reporter | None = None,
) -> AbstractVideoBackbone:
    """Load a video model, frozen, in eval mode.

    Args:
        base: a ModelScope, ZeroScope or Wan 2.1 text-to-video folder or hub id; or, with `motion`, any Stable
            Diffusion 1.x or 2.x model that `load_backbone` takes.
        motion: motion adapter: a folder, or a `.safetensors` file in AnimateDiff's own layout. None: toybox takes its
            own.
        inflation: inflate an image model instead (Tune-A-Video, LAMP); then there is no motion adapter.
        device: auto, cuda, mps or cpu.
        precision: auto, fp32, bf16 or fp16.
        reporter: told what was chosen.

    Raises:
        ModelError: a model is missing, incomplete, damaged or a pickle, or the two do not fit.
        UsageError: an image model without a motion adapter, a video model with one, or inflation of a video model.
    """
    reporter = reporter or SilentReporter()
    folder = _text_to_video_folder(base)
    if folder is None:
        where = None if inflation is not None else _motion_adapter(base, motion)
        image = load_backbone(base, device=device, precision=precision, reporter=reporter)
        if image.family != "sd":
            raise UsageError(f"clips are made with Stable Diffusion 1.x and 2.x here, {base} is {image.family}.")
        if inflation is not None:
            if motion is not None:
                raise UsageError(f"an inflated image model brings its own temporal layers; leave out {motion}.")
            return InflatedBackbone(image, attention=inflation)
        assert where is not None
        adapter = load_motion_adapter(where, norm_groups=image.denoiser.config["norm_num_groups"])
        if motion is None:
            backbone = AnimateDiffBackbone(image, adapter, name=str(base))
            backbone.frames = min(_TOYBOX_FRAMES, backbone.frames)
            backbone.noise_share = _TOYBOX_NOISE_SHARE
            return backbone
        backbone = AnimateDiffBackbone(image, adapter, name=f"{base} + {motion}", module=str(motion))
        if image.schedule.prediction_type == "epsilon":
            backbone.schedule = published_schedule(image.schedule.num_train_timesteps)
        return backbone
    if inflation is not None:
        raise UsageError(f"{base} makes clips already; this method inflates an image model. Take one, or toybox.")
    if motion is not None:
        raise UsageError(f"{base} makes clips by itself and takes no motion adapter, got {motion}.")
    place = choose_device(device)
    dtype = choose_dtype(precision, place)
    if not (folder / "unet").is_dir():
        return load_wan(str(base), folder, place, dtype)
    return _load_modelscope(str(base), folder, place, dtype)


def _motion_adapter(base: str | Path, motion: str | Path | None) -> str | Path:
    """Where the motion adapter for an image model is.

    Raises:
        UsageError: none was named, and toybox has none.
    """
    if motion is not None:
        return motion
    if str(base) != "toybox":
        raise UsageError(
            f"{base} makes pictures; for clips name a motion adapter too (--motion-module with a folder or a "
            ".safetensors file), or take a text-to-video model such as a ModelScope folder."
        )
    if not _TOYBOX_MOTION.is_dir():
        raise UsageError(
            f"toybox's motion adapter is missing: {_TOYBOX_MOTION} is not there. Reinstall pcs_ext, or train one: "
            "`python -m pcs_ext.toybox.train motion`, then `export`. Without it, learn with a recipe that brings "
            "temporal layers along (--recipe tune-a-video), or take another base: a text-to-video folder, or a Stable "
            "Diffusion 1.5 model with --motion-module."
        )
    return _TOYBOX_MOTION


def _load_modelscope(name: str, folder: Path, device: torch.device, dtype: torch.dtype) -> ModelScopeBackbone:
    parts = load_folder(folder, denoiser=UNet3DConditionModel)
    backbone = assemble(name, parts, device, dtype, kind=ModelScopeBackbone)
    assert isinstance(backbone, ModelScopeBackbone)
    return backbone


def is_text_to_video(base: str | Path) -> bool:
    """Whether a base is a text-to-video folder or hub id, and no image model.

    Raises:
        ModelError: its index is damaged, or the name is no model at all.
    """
    return _text_to_video_folder(base) is not None


def follows_flow(base: str | Path) -> bool:
    """Whether a base is a model of velocities (Wan), which nothing that needs a noise schedule runs on; loads nothing.

    Raises:
        ModelError: its index is damaged, or the name is no model at all.
    """
    folder = _text_to_video_folder(base)
    return folder is not None and not (folder / "unet").is_dir()


def _text_to_video_folder(base: str | Path) -> Path | None:
    """The folder of a text-to-video pipeline; None for everything that the image core loads."""
    path = Path(base).expanduser()
    # Not any suffix: text-to-video-ms-1.7b and Wan2.1-T2V-1.3B-Diffusers are folders.
    if str(base) == "toybox" or path.suffix == ".safetensors" or path.suffix in PICKLES:
        return None
    folder = model_folder(base)
    index = folder / "model_index.json"
    try:
        entries = json.loads(index.read_text(encoding="utf-8")) if index.is_file() else {}
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{index} is not valid JSON ({error}); fetch the model again.") from None
    video_unet = entries.get("unet", [None, None])[1] == "UNet3DConditionModel"
    return folder if video_unet or "transformer" in entries else None
