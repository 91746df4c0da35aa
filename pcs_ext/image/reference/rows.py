"""Low-rank updates of linear layers that are different in every row of a batch, as hypernetworks make them."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def row_updates(root: nn.Module, updates: Mapping[str, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Inside, every row of a batch passes its own weights: y_i = layer(x_i) + x_i (U_i D_i)^T.

    Args:
        root: holds the layers; whatever stands in front of them is passed, too.
        updates: by path in it, U `b out r` and D `b r in`; rows that have none hold zeros.
    """
    handles = []
    try:
        for path, (up, down) in updates.items():
            handles.append(root.get_submodule(path).register_forward_hook(_adding(up, down)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _adding(up: Tensor, down: Tensor) -> Callable[[nn.Module, tuple[Any, ...], Tensor], Tensor]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        hidden = torch.bmm(x, down.transpose(1, 2).to(x.dtype))
        return output + torch.bmm(hidden, up.transpose(1, 2).to(hidden.dtype)).to(output.dtype)

    return hook
