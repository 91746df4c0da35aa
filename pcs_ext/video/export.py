"""Learned motions in the formats of AnimateDiff's files, and what was learned of looks beside them in a file apart.

    down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor.to_q_lora.down.weight

That is a motion LoRA's key. AnimateDiff's reader, as recalled, takes `processor.`, `_lora` and `down.` out, writes `.0`
behind `to_out`, and adds up times down to the weight of that name: so a layer of the feed-forward has a key, too. Such
a file says no scale; it is in `up`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from pcs_ext.config_io import from_jsonable
from pcs_ext.errors import UsageError
from pcs_ext.image.adapters import AdapterConfig, LowRankConfig
from pcs_ext.image.export import ExportOptions
from pcs_ext.image.export.diffusers_model import merged_state
from pcs_ext.image.export.files import with_suffix, write_safetensors
from pcs_ext.video.backbones.animatediff import AnimateDiffBackbone
from pcs_ext.video.backbones.inflated import InflatedBackbone
from pcs_ext.video.backbones.motion_files import in_original_layout, original_name
from pcs_ext.video.motion import Motion

MotionFormat = Literal["motion-lora", "motion-module", "spatial-lora"]
"""motion-lora: AnimateDiff's, to go on top of a motion module. motion-module: a whole one, the motion in its weights.
spatial-lora: what was learned of the clip's looks, as sd-scripts writes it (ComfyUI, A1111)."""
_KEY = re.compile(r"(?P<component>motion|denoiser)\.(?P<path>.+)\.lora_(?P<side>[AB])\.weight")


def export_motion(
    motion: Motion,
    format: str,
    output: Path,
    options: ExportOptions | None = None,
    *,
    backbone: AnimateDiffBackbone | None = None,
) -> Path:
    """Write a motion, or the looks that were learned beside it, as one `.safetensors` file.

    Args:
        motion: learned on an AnimateDiff base.
        format: see `MotionFormat`.
        output: the file.
        options: precision, overwriting.
        backbone: what it was learned on, for `motion-module`; it is left as it was.

    Returns:
        The file.

    Raises:
        UsageError: unknown format, a motion that the format cannot hold, or a file that is there.
    """
    if format not in get_args(MotionFormat):
        raise UsageError(f"motion format {format!r} is unknown; expected one of {', '.join(get_args(MotionFormat))}.")
    if motion.data.concept["backbone"] != AnimateDiffBackbone.__name__:
        raise UsageError(
            f"{motion.recipe.id} was learned on {motion.data.concept['backbone']}; AnimateDiff's formats are for "
            "motions of an image model with a motion module. Learn it there to export it."
        )
    options = options or ExportOptions()
    if format == "motion-lora":
        tensors = _motion_lora(motion)
    elif format == "spatial-lora":
        tensors = _spatial_lora(motion)
    else:
        tensors = _motion_module(motion, backbone)
    cast = {key: options.cast(value) for key, value in tensors.items()}
    return write_safetensors(with_suffix(Path(output)), cast, _metadata(motion, format, options), options)


def _motion_lora(motion: Motion) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    for name in motion.recipe.plays:
        for path, (down, up) in _layers(motion, name, "motion").items():
            tensors |= {f"{_lora_name(path)}.down.weight": down, f"{_lora_name(path)}.up.weight": up}
    return tensors


def _lora_name(path: str) -> str:
    """`...attn1.to_out.0` -> `...attention_blocks.0.processor.to_out_lora`; `...ff.net.2` -> `...ff.net.2_lora`."""
    name = original_name(path).replace("to_out.0", "to_out")
    return re.sub(r"\.(to_q|to_k|to_v|to_out)$", r".processor.\1", name) + "_lora"


def _spatial_lora(motion: Motion) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = {}
    beside = [name for name in motion.recipe.adapters if name not in motion.recipe.plays]
    for name in beside:
        for path, (down, up) in _layers(motion, name, "denoiser").items():
            flat = f"lora_unet_{path.replace('.', '_')}"
            # The scale is in `up`: alpha equal to the rank leaves it so.
            alpha = torch.tensor(float(len(down)))
            tensors |= {f"{flat}.lora_down.weight": down, f"{flat}.lora_up.weight": up, f"{flat}.alpha": alpha}
    if not tensors:
        raise UsageError(f"{motion.recipe.id} learned nothing of its clip's looks apart from the motion.")
    return tensors


def _layers(motion: Motion, name: str, component: str) -> Mapping[str, tuple[Tensor, Tensor]]:
    """Path -> (down, up) of an adapter's layers in a component, the scale in `up`.

    Raises:
        UsageError: it is no LoRA, or lies elsewhere.
    """
    config = from_jsonable(AdapterConfig, motion.data.adapters[name], where=name)  # type: ignore[arg-type]
    found: dict[str, dict[str, Tensor]] = {}
    for key, value in motion.data.tensors_of(name).items():
        match = _KEY.fullmatch(key)
        if match is None or match["component"] != component or not isinstance(config, LowRankConfig):
            raise UsageError(
                f"{motion.recipe.id} is no LoRA on {'temporal' if component == 'motion' else 'spatial'} layers "
                f"({key}); write it as a motion-module, which holds changed weights of any kind."
            )
        found.setdefault(match["path"], {})[match["side"]] = value.float()
    assert isinstance(config, LowRankConfig)
    return {path: (sides["A"], sides["B"] * config.scaling) for path, sides in found.items()}


def _motion_module(motion: Motion, backbone: AnimateDiffBackbone | None) -> dict[str, Tensor]:
    if backbone is None or isinstance(backbone, InflatedBackbone):
        raise UsageError("a motion-module holds the base's motion module, which must be loaded for it.")
    for name in motion.recipe.plays:
        config = from_jsonable(AdapterConfig, motion.data.adapters[name], where=name)  # type: ignore[arg-type]
        if config.kind not in ("low_rank", "full") or getattr(config, "components", ()) != ("motion",):
            raise UsageError(
                f"{motion.recipe.id} changes more than the weights of a motion module; no file holds that."
            )
    with motion.applied(backbone), torch.no_grad():
        state = {key: value.detach().cpu().clone() for key, value in merged_state("motion", backbone.motion).items()}
    return in_original_layout(state)


def _metadata(motion: Motion, format: str, options: ExportOptions) -> dict[str, str]:
    told = {"recipe": motion.recipe.id, "base": motion.data.base_name} if options.training_metadata else {}
    return {"kind": format, **({"title": options.title} if options.title else {}), **told}
