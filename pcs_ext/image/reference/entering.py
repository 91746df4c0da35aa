"""What enters some modules of a network, without running what comes after the last of them."""

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor, nn


@contextlib.contextmanager
def entering(network: nn.Module, paths: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Inside, the network is asked once; yields what enters its modules then, by path, differentiable.

    Args:
        network: called inside, directly or by what stands in front of it; its answer is never given.
        paths: of modules in it, in the order in which they are called.
    """
    kept: dict[str, Tensor] = {}

    def keep(path: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            kept[path] = inputs[0] if inputs else named["hidden_states"]
            if path == paths[-1]:
                raise _Enough

        return hook

    handles = [network.get_submodule(path).register_forward_pre_hook(keep(path), with_kwargs=True) for path in paths]
    try:
        yield kept
    except _Enough:
        pass
    finally:
        for handle in handles:
            handle.remove()


class _Enough(Exception):
    """The last module was reached."""
