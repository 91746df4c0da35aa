"""Layers that stand in front of a frozen layer: how adapters chain them, find them again and leave no trace.

A stand-in keeps the layer it replaced below it. Several adapters on one layer form a chain; each can be taken out of
the middle, and when the last is gone the original module object is back in its place.
"""

import abc
import contextlib
import copy
import re
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from pcs_ext.errors import ArtifactError, UsageError


class AdapterLayer(nn.Module, abc.ABC):
    """A module that replaces a leaf of the backbone and calls what it replaced."""

    mergeable = True
    """Whether a weight of the original layer could have the same effect."""

    @abc.abstractmethod
    def below(self) -> nn.Module:
        """What this layer replaced: the original module or another adapter's layer."""

    @abc.abstractmethod
    def set_below(self, module: nn.Module | None) -> None:
        """Stand in front of `module`; None: stand nowhere and hold no part of a backbone."""

    @abc.abstractmethod
    def merge(self, weight: Tensor) -> Tensor:
        """The weight that a layer of `weight` would need to give this layer's output, in float32 at least.

        Args:
            weight: of what this layer replaced, with everything below it merged.
        """

    @property
    def weight(self) -> Tensor:
        """The original layer's weight: code around the layer asks for its device and dtype."""
        return original(self).weight  # type: ignore[return-value]

    @property
    def bias(self) -> Tensor | None:
        """The original layer's bias."""
        return original(self).bias  # type: ignore[return-value]


def original(module: nn.Module) -> nn.Module:
    """The backbone's own module under any stand-ins."""
    while isinstance(module, AdapterLayer):
        module = module.below()
    return module


def original_modules(root: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Paths and modules of the backbone itself, as `named_modules` gives them when no adapter is injected."""
    root = original(root)
    yield prefix, root
    for name, child in root.named_children():
        yield from original_modules(child, f"{prefix}.{name}" if prefix else name)


def merged_weights(root: nn.Module, prefix: str = "") -> dict[str, Tensor]:
    """Weights with all stand-ins merged, by path, for the layers that have any."""
    if isinstance(root, AdapterLayer):
        below = merged_weights(root.below(), prefix)
        return {prefix: root.merge(below.get(prefix, original(root).weight))}  # type: ignore[dict-item, arg-type]
    merged: dict[str, Tensor] = {}
    for name, child in root.named_children():
        merged |= merged_weights(child, f"{prefix}.{name}" if prefix else name)
    return merged


@contextlib.contextmanager
def merged(*roots: nn.Module, limit: int = 2 << 30) -> Iterator[None]:
    """Plain layers of merged weights in place of all chains of stand-ins, for as long as the context lasts.

    A plain layer runs in half the time of one with a low-rank adapter on every layer. Afterwards the chains are back,
    untouched; scales that change meanwhile have no effect before that. Chains with a layer that no weight can stand for
    stay.

    Args:
        roots: modules that are not stand-ins themselves.
        limit: bytes of merged weights beyond which nothing is merged.
    """
    with contextlib.ExitStack() as undo:
        found = [entry for root in roots for entry in _chains(root) if _mergeable(entry[2])]
        if sum(original(chain).weight.nbytes for _, _, chain in found) <= limit:  # type: ignore[union-attr]
            for parent, leaf, chain in found:
                undo.callback(setattr, parent, leaf, chain)
                setattr(parent, leaf, _plain(chain))
        yield


def _chains(root: nn.Module) -> Iterator[tuple[nn.Module, str, AdapterLayer]]:
    """Parent, attribute and top of every chain below `root`."""
    for name, child in root.named_children():
        if isinstance(child, AdapterLayer):
            yield root, name, child
        else:
            yield from _chains(child)


def _mergeable(chain: AdapterLayer) -> bool:
    node: nn.Module = chain
    while isinstance(node, AdapterLayer):
        if not node.mergeable:
            return False
        node = node.below()
    return True


@torch.no_grad()
def _plain(chain: AdapterLayer) -> nn.Module:
    base = original(chain)
    weight = merged_weights(chain)[""].to(base.weight.dtype)  # type: ignore[arg-type]
    # A shallow copy shares everything with the original but the table of parameters.
    plain = copy.copy(base)
    plain._parameters = {**base._parameters, "weight": nn.Parameter(weight, requires_grad=False)}
    return plain


def attach(root: nn.Module, path: str, layer: AdapterLayer) -> None:
    """Put `layer` in front of whatever stands at `path` now."""
    parent, leaf = _parent(root, path)
    layer.set_below(parent.get_submodule(leaf))
    setattr(parent, leaf, layer)


def detach(root: nn.Module, path: str, layer: AdapterLayer) -> None:
    """Take `layer` out of the chain at `path`, wherever in it it stands."""
    parent, leaf = _parent(root, path)
    node = parent.get_submodule(leaf)
    if node is layer:
        setattr(parent, leaf, layer.below())
    else:
        while isinstance(node, AdapterLayer) and node.below() is not layer:
            node = node.below()
        assert isinstance(node, AdapterLayer), f"the layer at {path} was replaced behind the adapter's back"
        node.set_below(layer.below())
    layer.set_below(None)


def _parent(root: nn.Module, path: str) -> tuple[nn.Module, str]:
    head, _, leaf = path.rpartition(".")
    return root.get_submodule(head), leaf


def canonical_path(component: str, path: str) -> str:
    """The module path as files spell it.

    Newer transformers have no `text_model` level in a text encoder without projection; all file formats do.
    """
    if component.startswith("text_encoder") and not path.startswith(("text_model.", "text_projection")):
        return f"text_model.{path}"
    return path


def check_name(name: str) -> str:
    """The adapter's name if it may be one.

    Raises:
        UsageError: it holds anything but letters, digits and underscores.
    """
    if not re.fullmatch(r"[A-Za-z0-9_]+", name):
        raise UsageError(f"adapter name {name!r} is not usable; expected letters, digits and underscores.")
    return name


def check_state(adapter: str, expected: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> None:
    """Compare the tensors an adapter needs with those it was given.

    Raises:
        ArtifactError: keys or shapes differ; up to five of each kind are listed.
    """
    faults = [f"missing {key} {tuple(expected[key].shape)}" for key in sorted(expected.keys() - got.keys())][:5]
    faults += [f"unexpected {key} {tuple(got[key].shape)}" for key in sorted(got.keys() - expected.keys())][:5]
    both = sorted(key for key in expected.keys() & got.keys() if expected[key].shape != got[key].shape)
    faults += [f"{key}: expected {tuple(expected[key].shape)}, got {tuple(got[key].shape)}" for key in both][:5]
    if faults:
        raise ArtifactError(
            f"the tensors do not fit adapter {adapter!r}; was it made for another base or configuration?\n  "
            + "\n  ".join(faults)
        )


def to_storage(tensor: Tensor) -> Tensor:
    """A contiguous CPU copy that shares no memory with the live parameter."""
    return tensor.detach().to("cpu", copy=True).contiguous()


def copy_into(tensors: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Overwrite values in place, so that optimisers keep pointing at their parameters."""
    with torch.no_grad():
        for key, tensor in tensors.items():
            tensor.copy_(state[key])
