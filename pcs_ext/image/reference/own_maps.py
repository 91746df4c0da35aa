"""What a base's own attentions make of other states than those that they read."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone


def own_pairs(backbone: AbstractBackbone, states: Mapping[str, Tensor]) -> dict[str, tuple[Tensor, Tensor]]:
    """Their keys and values, by path, `b m channels` each; weights of adapters in the attentions act.

    Args:
        backbone: whose attentions they are.
        states: by path, `b m d`, as wide as what the attention reads.
    """
    pairs = {}
    for path, own in states.items():
        attention: Any = backbone.denoiser.get_submodule(path)
        given = own.to(attention.to_k.weight.dtype)
        pairs[path] = (attention.to_k(given), attention.to_v(given))
    return pairs


def texts_pairs(backbone: AbstractBackbone, tokens: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
    """Those of all text cross-attentions for tokens `b m context`, which are as wide as text states."""
    return own_pairs(backbone, dict.fromkeys(backbone.cross_attention_paths(), tokens))
