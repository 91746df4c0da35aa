"""Motion adapters on disk: diffusers folders, and motion module files in AnimateDiff's own key layout."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers import MotionAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from pcs_ext.errors import ModelError
from pcs_ext.image.backbones.weight_files import weight_files

_PICKLES = {".ckpt", ".pt", ".pth", ".bin", ".pkl"}
_RENAMES = (
    (r"\.temporal_transformer\.", "."),
    (r"\.attention_blocks\.0\.", ".attn1."),
    (r"\.attention_blocks\.1\.", ".attn2."),
    (r"\.pos_encoder\.pe$", ".pos_embed.pe"),
    (r"\.norms\.0\.", ".norm1."),
    (r"\.norms\.1\.", ".norm2."),
    (r"\.ff_norm\.", ".norm3."),
)
"""From the original names to diffusers'. The position table belongs to either attention there, to the block here."""

_ORIGINAL = (
    (r"\.attn1\.", ".attention_blocks.0."),
    (r"\.attn2\.", ".attention_blocks.1."),
    (r"\.norm1\.", ".norms.0."),
    (r"\.norm2\.", ".norms.1."),
    (r"\.norm3\.", ".ff_norm."),
)
"""The way back."""


def load_motion_adapter(path: str | Path, *, heads: int | None = None, norm_groups: int = 32) -> MotionAdapter:
    """Read a motion adapter.

    Args:
        path: diffusers folder with `config.json`, or a `.safetensors` file in the original AnimateDiff layout.
        heads, norm_groups: attention heads and group count, which an original file does not say. None: 8 as
            AnimateDiff has it.

    Raises:
        ModelError: missing, damaged, a pickle, or no motion adapter.
    """
    path = Path(path).expanduser()
    if path.suffix in _PICKLES:
        raise ModelError(
            f"{path} is a pickle, which can run code when it is loaded; expected .safetensors. Convert it on a machine "
            "you can lose: load it with torch.load(weights_only=True) and write it with safetensors.torch.save_file."
        )
    if path.is_dir():
        return _from_folder(path)
    if not path.is_file():
        raise ModelError(
            f"{path} does not exist; expected a motion adapter: a diffusers folder or a .safetensors file."
        )
    state = _read(path)
    if not any(".motion_modules." in key for key in state):
        raise ModelError(f"{path} has no motion modules among its {len(state)} tensors; is it a motion module file?")
    return _from_state(path, _renamed(state), heads or 8, norm_groups)


def _from_folder(folder: Path) -> MotionAdapter:
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder} has no config.json; expected a motion adapter as diffusers writes it.")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{folder / 'config.json'} is not valid JSON ({error}); fetch the adapter again.") from None
    if config.get("_class_name") != "MotionAdapter":
        raise ModelError(f"{folder} holds a {config.get('_class_name')}, expected a MotionAdapter.")
    adapter: Any = MotionAdapter.from_config(config)
    state: dict[str, Tensor] = {}
    for file in weight_files(folder).files:
        state |= _read(file)
    return _filled(folder, adapter, state)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} cannot be read ({error}); fetch it again.") from None


def _renamed(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys in diffusers' names; the position tables of both attentions of a block are one there."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        key = key.removeprefix("module.")
        if ".motion_modules." not in key:
            continue
        for pattern, name in _RENAMES:
            key = re.sub(pattern, name, key)
        key = re.sub(r"\.attn[12]\.pos_embed\.pe$", ".pos_embed.pe", key)
        renamed[key] = value
    return renamed


def original_name(path: str) -> str:
    """A path in diffusers' motion adapter under AnimateDiff's own names; position tables excepted."""
    path = re.sub(r"\.motion_modules\.(\d+)\.", r".motion_modules.\1.temporal_transformer.", path)
    for new, old in _ORIGINAL:
        path = re.sub(new, old, path)
    return path


def in_original_layout(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A motion adapter's tensors under AnimateDiff's own names, a position table for each attention."""
    renamed: dict[str, Tensor] = {}
    for key, value in state.items():
        if not key.endswith(".pos_embed.pe"):
            renamed[original_name(key)] = value
            continue
        block = original_name(key.removesuffix("pos_embed.pe"))
        renamed |= {f"{block}attention_blocks.{number}.pos_encoder.pe": value.clone() for number in (0, 1)}
    return renamed


def _from_state(path: Path, state: Mapping[str, Tensor], heads: int, norm_groups: int) -> MotionAdapter:
    """The adapter whose shapes the tensors have."""
    widths = {}
    layers = set()
    for key, value in state.items():
        if found := re.fullmatch(r"down_blocks\.(\d+)\.motion_modules\.(\d+)\.norm\.weight", key):
            widths[int(found[1])] = len(value)
            layers.add(int(found[2]))
    tables = [value.shape[1] for key, value in state.items() if key.endswith(".pos_embed.pe")]
    if not widths or not tables:
        raise ModelError(f"{path} has no motion modules in the down blocks or no position table; fetch it again.")
    adapter = MotionAdapter(
        block_out_channels=tuple(widths[index] for index in sorted(widths)),
        motion_layers_per_block=max(layers) + 1,
        motion_num_attention_heads=heads,
        motion_norm_num_groups=norm_groups,
        motion_max_seq_length=max(tables),
        use_motion_mid_block=any(key.startswith("mid_block.") for key in state),
    )
    return _filled(path, adapter, state)


def _filled(path: Path, adapter: Any, state: Mapping[str, Tensor]) -> MotionAdapter:
    """The adapter with the tensors in it.

    Raises:
        ModelError: tensors are missing, unknown or of other shapes.
    """
    own = adapter.state_dict()
    # The position table is a buffer, computed by a formula; files may leave it out.
    missing = sorted(key for key in own.keys() - state.keys() if not key.endswith(".pe"))
    unknown = sorted(state.keys() - own.keys())
    other = sorted(key for key in own.keys() & state.keys() if own[key].shape != state[key].shape)
    for what, names in (("lacks", missing), ("has unknown", unknown), ("has other shapes for", other)):
        if names:
            raise ModelError(f"{path} {what} {len(names)} tensors ({', '.join(names[:3])}); fetch the adapter again.")
    with torch.no_grad():
        adapter.load_state_dict({key: value.to(own[key].dtype) for key, value in state.items()}, strict=False)
    return adapter
