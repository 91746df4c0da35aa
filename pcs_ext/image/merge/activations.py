"""What layers read while a subject is painted."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.image.adapters.layers import original
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.sample import SampleConfig, SampleHooks, sample

Places = Mapping[str, Sequence[str]]
"""Component -> paths of layers in its module tree."""


@torch.no_grad()
def input_grams(
    backbone: AbstractBackbone, places: Places, prompts: Sequence[str], config: SampleConfig, *, seed: int = 0
) -> dict[tuple[str, str], Tensor]:
    """Sums of x x^T over all inputs x of every layer while the prompts are painted, `in in`, float64, on the CPU.

    A convolution's inputs are its patches, flattened as its kernels are.

    Args:
        backbone: with the subject in it.
        places: which layers.
        prompts: about the subject.
        config: how they are sampled.
        seed: of the first picture.
    """
    grams: dict[tuple[str, str], Tensor] = {}
    with _recording(backbone, places, grams):
        # A hook that does nothing keeps `sample` from merging the layers away under the recorder.
        untouched = SampleHooks(on_step=lambda step, timestep, latents: latents)
        sample(backbone, prompts, seeds=range(seed, seed + len(prompts)), config=config, hooks=untouched)
    return grams


@contextlib.contextmanager
def _recording(backbone: AbstractBackbone, places: Places, grams: dict[tuple[str, str], Tensor]) -> Iterator[None]:
    handles = []
    try:
        for component, paths in places.items():
            for path in paths:
                module = backbone.components()[component].get_submodule(path)
                handles.append(module.register_forward_pre_hook(_adding(grams, (component, path), module)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adding(grams: dict[tuple[str, str], Tensor], key: tuple[str, str], module: nn.Module):
    base = original(module)

    def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        rows = _rows(base, inputs[0].detach()).double()
        gram = (rows.T @ rows).cpu()
        grams[key] = grams[key] + gram if key in grams else gram

    return hook


def _rows(base: nn.Module, x: Tensor) -> Tensor:
    """Inputs as rows `m in`."""
    if isinstance(base, nn.Conv2d):
        patches = F.unfold(x, base.kernel_size, base.dilation, base.padding, base.stride)  # type: ignore[arg-type]
        return patches.transpose(1, 2).flatten(0, 1)
    return x.flatten(0, -2)
