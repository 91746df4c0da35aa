"""Which layers of a component a weight adapter works on: presets and patterns, and the error when nothing matches."""

import re
from typing import Literal

from torch import nn

from pcs_ext.errors import ConfigError, NoMatchingModulesError
from pcs_ext.image.adapters.layers import canonical_path, original_modules

TargetPreset = Literal["attention", "cross_attention", "attention+ff", "all_linear_conv"]

TEXT_KEYS_AND_VALUES = (r"^(?!.*(temp_attentions|transformer_in)\.).*\.attn2\.(to_k|to_v)$",)
"""Of every cross-attention to the text; in text-to-video models some `attn2` look at frames instead."""
_DENOISER_ATTENTION = r"\.(to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out)$"
_TEXT_ATTENTION = r"\.self_attn\.(q_proj|k_proj|v_proj|out_proj)$"
_DENOISER_PRESETS = {
    "attention": (_DENOISER_ATTENTION,),
    "cross_attention": (r"\.attn2\.(to_q|to_k|to_v|to_out\.0)$",),
    "attention+ff": (_DENOISER_ATTENTION, r"\.ff\.net\.(0\.proj|2)$"),
    # Blocks only: the input and output convolutions and the timestep embedding stay, as other trainers leave them.
    "all_linear_conv": (r"^(down_blocks|mid_block|up_blocks|transformer_blocks|single_transformer_blocks)\.",),
}
_TEXT_PRESETS = {
    "attention": (_TEXT_ATTENTION,),
    "cross_attention": (),
    "attention+ff": (_TEXT_ATTENTION, r"\.mlp\.(fc1|fc2)$"),
    "all_linear_conv": (r"\.layers\.\d+\.",),
}


def check_patterns(targets: TargetPreset | tuple[str, ...]) -> None:
    """Compile explicit patterns.

    Raises:
        ConfigError: one is not a regular expression, or there is none.
    """
    if isinstance(targets, str):
        return
    if not targets:
        raise ConfigError("targets is an empty list; expected a preset name or at least one regular expression.")
    for pattern in targets:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"target pattern {pattern!r} is not a regular expression: {error}.") from None


def matching_layers(
    component: str, module: nn.Module, targets: TargetPreset | tuple[str, ...]
) -> dict[str, tuple[str, nn.Linear | nn.Conv2d]]:
    """The Linear and Conv2d layers of a component that the targets name.

    Args:
        component: `denoiser`, `text_encoder` or `text_encoder_2`.
        module: the component; stand-ins of other adapters are looked through.
        targets: a preset, or regular expressions searched in the canonical module path.

    Returns:
        canonical path -> (path in this module tree, the original layer).

    Raises:
        NoMatchingModulesError: nothing matches; patterns and example paths are listed.
    """
    layers = {
        canonical_path(component, path): (path, layer)
        for path, layer in original_modules(module)
        if isinstance(layer, (nn.Linear, nn.Conv2d))
    }
    if isinstance(targets, str):
        presets = _TEXT_PRESETS if component.startswith("text_encoder") else _DENOISER_PRESETS
        patterns = presets[targets]
    else:
        patterns = targets
    found = {path: entry for path, entry in layers.items() if any(re.search(p, path) for p in patterns)}
    if not found:
        examples = list(layers)[:: max(1, len(layers) // 5)][:5]
        raise NoMatchingModulesError(
            f"targets {targets!r} match no Linear or Conv2d layer of {component}; tried the patterns "
            f"{list(patterns)}. Layers there are, for example: {', '.join(examples) or '(none)'}."
        )
    return found
