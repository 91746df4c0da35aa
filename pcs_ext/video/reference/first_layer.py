"""Features beside the noisy latents: what more input channels of a denoiser's first layer would add to its output."""

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn


@contextlib.contextmanager
def adding(layer: nn.Module, features: Tensor) -> Iterator[None]:
    """Inside, a layer's output has features added to it.

    A convolution of [z, r] is one of z plus one of r, so this is how latents that stand beside the noisy ones enter a
    model that was made without them.

    Args:
        layer: the first one.
        features: shaped like its output, or to be spread over it.
    """

    def add(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return output + features.to(output)

    handle = layer.register_forward_hook(add)
    try:
        yield
    finally:
        handle.remove()
