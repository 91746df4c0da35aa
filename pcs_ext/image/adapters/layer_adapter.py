"""What weight adapters that stand in front of layers have in common: attaching, detaching, listing and storing them."""

import abc
from collections.abc import Mapping
from typing import Generic, TypeVar

from torch import Tensor, nn

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.layers import (
    AdapterLayer,
    attach,
    check_name,
    check_state,
    copy_into,
    detach,
    to_storage,
)
from pcs_ext.image.backbone import AbstractBackbone


class TrainedLayer(AdapterLayer, abc.ABC):
    """A stand-in with trained tensors and a strength."""

    scale: float

    @abc.abstractmethod
    def tensors(self) -> dict[str, nn.Parameter]:
        """The trained parameters by the names they have in files."""


Layer = TypeVar("Layer", bound=TrainedLayer)
Found = Mapping[str, Mapping[str, tuple[str, nn.Module]]]
"""Component -> canonical path -> (path in this module tree, the original layer)."""


class LayerAdapter(AbstractAdapter, Generic[Layer]):
    """Layers of one kind in front of the targets; state: `<component>.<module path>.<tensor>`, float32."""

    def __init__(self, name: str) -> None:
        self.name = check_name(name)
        self._layers: dict[str, dict[str, Layer]] = {}
        self._injected: list[tuple[nn.Module, str, Layer]] = []
        self._pending: dict[str, Tensor] | None = None
        self._scale = 1.0

    @abc.abstractmethod
    def _find(self, backbone: AbstractBackbone) -> Found:
        """The layers to stand in front of.

        Raises:
            NoMatchingModulesError: there is none.
            ConfigError: the backbone has no such component.
        """

    @abc.abstractmethod
    def _make(self, bases: Mapping[str, nn.Module]) -> dict[str, Layer]:
        """A stand-in for every layer, by `component.path`; none holds a part of the backbone yet."""

    def inject(self, backbone: AbstractBackbone) -> None:
        """Attach. The backbone's outputs do not change until the adapter is trained.

        Raises:
            NoMatchingModulesError: the targets match nothing in one of the components.
            ConfigError: the backbone has no such component.
            ArtifactError: loaded tensors do not fit this backbone.
        """
        assert not self._injected, f"adapter {self.name!r} is injected already"
        found, modules = self._find(backbone), backbone.components()
        if not self._layers:
            self._build(found)
        for component, targets in found.items():
            assert targets.keys() == self._layers[component].keys(), "injected into a backbone of another layout"
            for path, (place, base) in targets.items():
                layer = self._layers[component][path]
                layer.to(device=next(base.parameters()).device)
                attach(modules[component], place, layer)
                self._injected.append((modules[component], place, layer))

    def _build(self, found: Found) -> None:
        flat = {f"{component}.{path}": base for component, t in found.items() for path, (_, base) in t.items()}
        built = self._make(flat)
        layers = {component: {p: built[f"{component}.{p}"] for p in targets} for component, targets in found.items()}
        if self._pending is not None:
            _load(self.name, layers, self._pending)
        self._layers, self._pending = layers, None
        self.set_scale(self._scale)

    def layers(self) -> dict[str, Layer]:
        """The injected layers by `component.path`."""
        return {
            f"{component}.{path}": layer for component, found in self._layers.items() for path, layer in found.items()
        }

    def eject(self) -> None:
        assert self._injected, f"adapter {self.name!r} is not injected"
        for root, place, layer in self._injected:
            detach(root, place, layer)
        self._injected = []

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        assert self._layers, f"adapter {self.name!r} has no parameters before it is injected"
        return {
            component: tuple(parameter for layer in layers.values() for parameter in layer.tensors().values())
            for component, layers in self._layers.items()
        }

    def state_dict(self) -> dict[str, Tensor]:
        """`<component>.<module path>.<tensor's name>`, float32."""
        if self._pending is not None:
            return dict(self._pending)
        return {key: to_storage(tensor) for key, tensor in _tensors(self._layers).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if self._layers:
            _load(self.name, self._layers, state)
        else:
            self._pending = {key: to_storage(tensor) for key, tensor in state.items()}

    def set_scale(self, scale: float) -> None:
        self._scale = scale
        for layers in self._layers.values():
            for layer in layers.values():
                layer.scale = scale


def pick_components(backbone: AbstractBackbone, names: tuple[str, ...]) -> dict[str, nn.Module]:
    """The named parts of a backbone.

    Raises:
        ConfigError: it has no such part.
    """
    there = backbone.components()
    missing = [name for name in names if name not in there]
    if missing:
        raise ConfigError(f"backbone {backbone.name} has no component {', '.join(missing)}; it has {sorted(there)}.")
    return {name: there[name] for name in names}


def _tensors(layers: Mapping[str, Mapping[str, Layer]]) -> dict[str, nn.Parameter]:
    return {
        f"{component}.{path}.{key}": parameter
        for component, by_path in layers.items()
        for path, layer in by_path.items()
        for key, parameter in layer.tensors().items()
    }


def _load(name: str, layers: Mapping[str, Mapping[str, Layer]], state: Mapping[str, Tensor]) -> None:
    tensors = _tensors(layers)
    check_state(name, tensors, state)
    copy_into(tensors, state)
