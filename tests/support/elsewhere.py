"""A device that is not the CPU, for machines that have no other: what mixes the two fails, as it would on a GPU.

Tensors of it say that they are on `meta` and hold their numbers on the CPU. Every operation runs on those numbers, and
one that gets tensors of both places is refused unless the CPU's have no dimension, or are indices, as CUDA has it.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from pcs_ext.image.backbones.unet import AbstractUnetBackbone

ELSEWHERE = torch.device("meta")
_INDEXING = (torch.ops.aten.index.Tensor, torch.ops.aten.index_put.default, torch.ops.aten.index_put_.default)


class MixedDevicesError(RuntimeError):
    """An operation got tensors of both places."""


class _There(Tensor):
    """A tensor elsewhere."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "_There":
        made = Tensor._make_wrapper_subclass(
            cls, held.size(), strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            layout=held.layout, device=ELSEWHERE,
        )  # fmt: skip
        made.held = held
        return made

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"elsewhere({self.held!r})"

    def numpy(self, *, force: bool = False) -> Any:
        raise MixedDevicesError("numpy reads the CPU alone")

    def tolist(self) -> Any:
        return self.held.tolist()

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _run(func: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
    values, _ = tree_flatten((args, kwargs))
    there = [value for value in values if isinstance(value, _There)]
    here = [value for value in values if isinstance(value, Tensor) and not isinstance(value, _There)]
    target = kwargs.get("device")
    named = {key: value for key, value in kwargs.items() if key != "device"}
    moves = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
    mixed = bool(there) and any(value.dim() for value in here)
    if func in _INDEXING:  # indices may be the CPU's, where what is indexed, and put, is elsewhere
        mixed = mixed and any(value.dim() and not isinstance(value, _There) for value in (args[0], *args[2:3]))
    if mixed and not moves:
        raise MixedDevicesError(
            f"{func}: got tensors of the CPU, {[tuple(value.shape) for value in here]}, beside others"
        )
    if target is not None and torch.device(target).type == "cpu":
        named["device"] = target
    found = func(*tree_map(_held, args), **tree_map(_held, named))
    if target is not None:
        elsewhere = torch.device(target).type == ELSEWHERE.type
    elif func is torch.ops.aten.copy_.default:
        return args[0]
    else:
        elsewhere = bool(there)
    if func._schema.is_mutable and there and isinstance(args[0], _There):
        return args[0]
    return tree_map(lambda value: _There(value) if isinstance(value, Tensor) else value, found) if elsewhere else found


def _held(value: Any) -> Any:
    return value.held if isinstance(value, _There) else value


class _FromNumbers(TorchFunctionMode):
    """Tensors made of Python's numbers, which torch copies to a device without a word to the other mode."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named = dict(kwargs or {})
        if func is Tensor.new_tensor:
            where = named.pop("device", args[0].device)
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **named}).to(where)
        if func in (torch.tensor, torch.as_tensor) and torch.device(named.get("device") or "cpu") == ELSEWHERE:
            return func(*args, **{**named, "device": "cpu"}).to(ELSEWHERE)
        return func(*args, **named)


class _Factories(TorchDispatchMode):
    """Tensors that are made elsewhere are."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextlib.contextmanager
def elsewhere() -> Iterator[torch.device]:
    """Inside, there is such a device; autocast, which does not know it, leaves it alone."""
    autocast, enabled = torch.autocast, torch.is_autocast_enabled

    def known(device_type: str, *args: Any, **named: Any) -> Any:
        return contextlib.nullcontext() if device_type == ELSEWHERE.type else autocast(device_type, *args, **named)

    with pytest.MonkeyPatch.context() as patched, _FromNumbers(), _Factories():
        patched.setattr(torch, "autocast", known)
        patched.setattr(torch, "is_autocast_enabled", lambda *kind: kind != (ELSEWHERE.type,) and enabled(*kind))
        yield ELSEWHERE


def moved(backbone: AbstractUnetBackbone) -> AbstractUnetBackbone:
    """A base with everything elsewhere, in place; only inside `elsewhere`."""
    for part in (backbone.denoiser, backbone.vae, *backbone.text_encoders):
        nn.Module.to(part, ELSEWHERE)
    backbone.device = ELSEWHERE
    return backbone
