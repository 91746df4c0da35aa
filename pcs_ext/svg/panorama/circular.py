"""Latents and layers that go on at the other end."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.image.adapters.layers import AdapterLayer, original
from pcs_ext.image.backbone import AbstractBackbone


def decode_circular(backbone: AbstractBackbone, latents: Tensor, *, margin: int = 8) -> Tensor:
    """Images `b 3 h*f w*f` of latents whose last column is followed by their first.

    Args:
        backbone: whose autoencoder decodes.
        latents: `b c h w`.
        margin: cells of the other end that the decoder sees on both sides, at most w.
    """
    margin = min(margin, latents.shape[-1])
    padded = F.pad(latents, (margin, margin, 0, 0), mode="circular")
    side = margin * backbone.vae_factor
    return backbone.decode_latents(padded)[..., side:-side]


@contextlib.contextmanager
def circular_padding(*modules: nn.Module) -> Iterator[None]:
    """Inside, convolutions pad sideways with the other end instead of zeros; above and below as before.

    What adapters add to a convolution is meant as well, by convolutions of their own or with its settings: the input of
    the whole chain is padded, and all in it pad no more. Convolutions that pad in another way than with zeros stay as
    they are.
    """
    with contextlib.ExitStack() as undo:
        for unit in (unit for module in modules for unit in _units(module)):
            below = original(unit)
            if not (isinstance(below, nn.Conv2d) and below.padding_mode == "zeros" and _sides(below)[1]):
                continue
            undo.callback(unit.register_forward_pre_hook(_widen(_sides(below)[1])).remove)
            same = [it for it in unit.modules() if isinstance(it, nn.Conv2d) and it.padding == below.padding]
            for layer in same:
                undo.callback(setattr, layer, "padding", layer.padding)
                layer.padding = (_sides(layer)[0], 0)
        yield


def _units(module: nn.Module) -> Iterator[nn.Module]:
    """Convolutions and chains of adapters, with all that is in them."""
    if isinstance(module, AdapterLayer | nn.Conv2d):
        yield module
        return
    for child in module.children():
        yield from _units(child)


def _sides(layer: nn.Conv2d) -> tuple[int, int]:
    padding: Any = layer.padding
    return (0, 0) if isinstance(padding, str) else (padding[0], padding[1])


def _widen(sideways: int) -> Any:
    def widen(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return F.pad(inputs[0], (sideways, sideways, 0, 0), mode="circular"), *inputs[1:]

    return widen
