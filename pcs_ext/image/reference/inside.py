"""What an adapter reads inside the denoiser: layers of its own that are there while rows with pictures are denoised."""

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.backbones.unet import recomputing_inside
from pcs_ext.image.predict_programs import Predict, add_prediction, remove_prediction
from pcs_ext.image.types import Conditioning


@dataclasses.dataclass(frozen=True, kw_only=True)
class Read:
    """Vectors of the pictures of a batch, and how much they count."""

    vectors: Tensor
    """`b m d`, zeros in rows without pictures."""
    strength: Tensor
    """`b`, 0 in rows without pictures."""

    @property
    def seen(self) -> Tensor:
        """Numbers of the rows that have pictures."""
        return self.strength.nonzero()[:, 0]


def beside(conditioning: Conditioning, name: str, vectors: Tensor, strength: Tensor) -> Conditioning:
    """The same conditioning with vectors that an adapter reads inside the denoiser.

    Args:
        conditioning: of `b` prompts.
        name: the adapter's own.
        vectors: `b m d`.
        strength: `b`, 0 where a row has none.
    """
    counted = strength.to(vectors)[:, None, None]
    column = counted.expand(-1, vectors.shape[1], 1)
    read = torch.cat([vectors * (counted != 0), column], dim=-1)
    return dataclasses.replace(conditioning, shown={**(conditioning.shown or {}), name: read})


def read_of(conditioning: Conditioning, name: str) -> Read | None:
    """What `beside` put there; None: no row has pictures."""
    read = (conditioning.shown or {}).get(name)
    return None if read is None else Read(vectors=read[..., :-1], strength=read[:, 0, -1])


@contextlib.contextmanager
def reading(
    backbone: AbstractBackbone, name: str, inside: Callable[[Read], contextlib.AbstractContextManager[Any]]
) -> Iterator[None]:
    """Inside, batches of which a row has vectors of that name are denoised within `inside`, also what is recomputed."""

    def answered(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
        read = read_of(conditioning, name)
        if read is None or not len(read.seen):
            return predict(noisy, timesteps, conditioning)
        within = lambda: inside(read)  # noqa: E731
        with recomputing_inside(backbone.denoiser, within), within():
            return predict(noisy, timesteps, conditioning)

    with answering(backbone, name, answered):
        yield


@contextlib.contextmanager
def entering_beside(backbone: AbstractBackbone, layer: nn.Module, cells: Tensor, strength: Tensor) -> Iterator[None]:
    """Inside, what a layer makes of maps is added to the first convolution's output, as by channels of its own.

    Args:
        backbone: whose denoiser.
        layer: `b c h w` in, as many channels as the first convolution out.
        cells: `b c n`, as many cells as the latents have.
        strength: `b`, what it counts.
    """

    def enter(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        maps = cells.to(next(layer.parameters())).unflatten(2, output.shape[2:])
        return output + (strength[:, None, None, None] * layer(maps)).to(output.dtype)

    handle = backbone.denoiser.conv_in.register_forward_hook(enter)
    try:
        yield
    finally:
        handle.remove()


@contextlib.contextmanager
def answering(backbone: AbstractBackbone, name: str, program: Any) -> Iterator[None]:
    """Inside, a program stands around the backbone's `predict`."""
    add_prediction(backbone, name, program)
    try:
        yield
    finally:
        remove_prediction(backbone, name)
