"""Text cross-attentions that find something else: what their queries asked and found goes through a function."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

Change = Callable[[Tensor, Tensor], Tensor]
"""Queries `b n d` and what they found in the text `b n d`, before the output projection -> what is found instead."""


@contextlib.contextmanager
def finding_instead(denoiser: nn.Module, changes: Mapping[str, Change]) -> Iterator[None]:
    """Inside, cross-attentions at those paths find what the functions make of it."""
    handles = []
    try:
        for path, change in changes.items():
            attention, look = denoiser.get_submodule(path), _Look(change)
            handles.append(attention.get_submodule("to_q").register_forward_hook(look.keep))
            handles.append(attention.get_submodule("to_out.0").register_forward_pre_hook(look.replace))
        yield
    finally:
        for handle in handles:
            handle.remove()


class _Look:
    """One attention's."""

    def __init__(self, change: Change) -> None:
        self.change = change
        self._query: Tensor | None = None

    def keep(self, module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        """After `to_q`."""
        self._query = output

    def replace(self, module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        """Before `to_out`."""
        query, self._query = self._query, None
        assert query is not None, "the attention gave an output without asking for queries"
        return (self.change(query, inputs[0]).to(inputs[0].dtype), *inputs[1:])
