"""Regions of a picture that a denoiser treats apart (DreamBooth++, Zhang et al., ACM MM 2024)."""

import contextlib
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any

from torch import Tensor, nn

from pcs_ext.image.adapters.layers import original_modules
from pcs_ext.image.grid import divided, joined


@contextlib.contextmanager
def regional(denoiser: nn.Module, side: int) -> Iterator[None]:
    """Inside, convolutions and self-attentions see one region of a grid of `side` by `side` at a time.

    What a region's cells read is then what they would read were the region the whole picture, but for the statistics
    of group norms, which stay those of all regions. Adapters beside layers do not obey: weights that train are to be
    the layers' own (kind full).

    Args:
        denoiser: a U-Net of diffusers' blocks.
        side: regions per side; 1 changes nothing.

    Raises:
        ConfigError: inside, where maps cannot be divided into so many regions.
    """
    replaced: list[tuple[nn.Module, Any]] = []
    try:
        for path, module in original_modules(denoiser) if side > 1 else ():
            if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1:
                apart = _conv_apart
            elif path.endswith(".attn1"):
                apart = _attention_apart
            else:
                continue
            replaced.append((module, vars(module).get("forward")))
            module.forward = functools.partial(apart, module.forward, side)  # type: ignore[method-assign]
        yield
    finally:
        for module, before in replaced:
            del module.forward
            if before is not None:
                module.forward = before


def _conv_apart(forward: Callable[..., Tensor], side: int, maps: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return joined(forward(divided(maps, side), *args, **kwargs), side)


def _attention_apart(forward: Callable[..., Tensor], side: int, states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """Of states `b n c`, whose n cells are those of a square."""
    edge = math.isqrt(states.shape[1])
    assert edge * edge == states.shape[1], "packed pictures are square"
    maps = divided(states.transpose(1, 2).unflatten(2, (edge, edge)), side)
    apart = forward(maps.flatten(2).transpose(1, 2), *args, **kwargs)
    return joined(apart.transpose(1, 2).unflatten(2, (edge // side, edge // side)), side).flatten(2).transpose(1, 2)
