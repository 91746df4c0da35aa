"""Latents and layers that go on at the other end."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

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

    Layers of adapters that are convolutions of their own are meant as well. Convolutions that pad in another way than
    with zeros stay as they are.
    """
    changed = [
        layer
        for module in modules
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d) and layer.padding_mode == "zeros" and _sides(layer)[1]
    ]
    try:
        for layer in changed:
            layer._conv_forward = _circular(layer)  # type: ignore[method-assign]
        yield
    finally:
        for layer in changed:
            layer.__dict__.pop("_conv_forward", None)


def _sides(layer: nn.Conv2d) -> tuple[int, int]:
    padding: Any = layer.padding
    return (0, 0) if isinstance(padding, str) else (padding[0], padding[1])


def _circular(layer: nn.Conv2d) -> Any:
    upward, sideways = _sides(layer)

    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x = F.pad(x, (sideways, sideways, 0, 0), mode="circular")
        return F.conv2d(x, weight, bias, layer.stride, (upward, 0), layer.dilation, layer.groups)

    return forward
