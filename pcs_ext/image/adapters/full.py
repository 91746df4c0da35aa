"""All weights of whole components (DreamBooth, Ruiz et al. 2022, arXiv 2208.12242)."""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, NoMatchingModulesError, UsageError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.layer_adapter import pick_components
from pcs_ext.image.adapters.layers import (
    canonical_path,
    check_name,
    check_state,
    copy_into,
    original_modules,
    to_storage,
)
from pcs_ext.image.adapters.low_rank_config import Component
from pcs_ext.image.adapters.targets import check_patterns
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.parking import ParkedParameters

_STORAGE = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@config
class FullConfig:
    """Train the weights themselves."""

    kind: Literal["full"] = "full"
    """Tag of this adapter in JSON."""
    components: tuple[Component, ...] = ("denoiser",)
    """Parts of the backbone that train."""
    include: tuple[str, ...] = (".*",)
    """Regular expressions searched in parameter paths within a component; a parameter trains if one is found."""
    storage: Literal["fp32", "fp16", "bf16"] = "fp32"
    """Precision of the weights in files. fp32 restores training exactly and takes 3.4 GB for SD 1.x; the others take
    half of it and round once."""

    def __post_init__(self) -> None:
        check_patterns(self.include)
        if not self.components or len(set(self.components)) != len(self.components):
            raise ConfigError(f"components must be distinct and at least one, got {list(self.components)}.")


class TrainedWeight(nn.Parameter):
    """A parameter that stands in the place of a backbone's own."""


@dataclasses.dataclass(frozen=True)
class _Place:
    """Where a backbone's parameter lives, and the original object."""

    owner: nn.Module
    name: str
    base: nn.Parameter

    def put(self, value: nn.Parameter) -> None:
        self.owner._parameters[self.name] = value


class FullAdapter(AbstractAdapter):
    """The trained weights take the places of the backbone's parameters; the originals are kept and come back.

    Weights train in float32 whatever the precision of the base. On a base in lower precision the component runs under
    autocast to the base's precision while the adapter is in it. The state holds whole weights, not differences, so
    that it is restored exactly: `<component>.<parameter path>` in `storage` precision.
    """

    def __init__(self, name: str, config: FullConfig) -> None:
        self.name = check_name(name)
        self.config = config
        self._trained: dict[str, TrainedWeight] = {}
        self._places: dict[str, _Place] = {}
        self._undo: list[Callable[[], None]] = []
        self._pending: dict[str, Tensor] | None = None
        self._scale = 1.0

    def inject(self, backbone: AbstractBackbone) -> None:
        """Put the trained weights in place.

        Raises:
            ConfigError: the backbone has no such component.
            NoMatchingModulesError: `include` names no parameter.
            UsageError: another adapter trains the same weights.
            ArtifactError: loaded tensors do not fit this backbone.
        """
        assert not self._places, f"adapter {self.name!r} is injected already"
        components = pick_components(backbone, self.config.components)
        found = {name: self._find(name, module) for name, module in components.items()}
        places = {key: place for group in found.values() for key, place in group.items()}
        self._prepare(places)
        for key, trained in self._trained.items():
            trained.data = trained.data.to(places[key].base.device)
        self._places = places
        self.set_scale(self._scale)
        for name, module in components.items():
            lower = {place.base.dtype for place in found[name].values()} - {torch.float32}
            if lower:
                dtype = lower.pop()
                self._undo.append(_run_under_autocast(module, dtype))
                tables = [p.owner for p in found[name].values() if isinstance(p.owner, nn.Embedding)]
                if len(found[name]) < sum(1 for _ in module.parameters()):
                    self._undo += [_answer_in(table, dtype) for table in tables]

    def _find(self, component: str, module: nn.Module) -> dict[str, _Place]:
        places: dict[str, _Place] = {}
        for path, owner in original_modules(module):
            for name, value in owner._parameters.items():
                key = canonical_path(component, f"{path}.{name}" if path else name)
                if value is None or not any(re.search(pattern, key) for pattern in self.config.include):
                    continue
                if isinstance(value, TrainedWeight):
                    raise UsageError(f"{component}.{key} is trained by another full adapter already; use one for both.")
                places[f"{component}.{key}"] = _Place(owner, name, value)
        if not places:
            names = [name for name, _ in module.named_parameters()][:5]
            raise NoMatchingModulesError(
                f"include {list(self.config.include)} names no parameter of {component}; for example it has {names}."
            )
        return places

    def _prepare(self, places: Mapping[str, _Place]) -> None:
        """Make the trained copies on first use, from the base or from loaded tensors."""
        if self._trained:
            assert self._trained.keys() == places.keys(), "injected into a backbone of another layout"
            return
        start: Mapping[str, Tensor] = {key: place.base for key, place in places.items()}
        if self._pending is not None:
            check_state(self.name, start, self._pending)
            start, self._pending = self._pending, None
        self._trained = {key: TrainedWeight(_like(place.base, start[key])) for key, place in places.items()}

    def eject(self) -> None:
        assert self._places, f"adapter {self.name!r} is not injected"
        for place in self._places.values():
            place.put(place.base)
        for undo in self._undo:
            undo()
        self._places, self._undo = {}, []

    @contextlib.contextmanager
    def base_parked(self) -> Iterator[None]:
        """Inside, the base's own weights that these stand in for are out of memory, and the strength stays 1."""
        assert self._places, f"adapter {self.name!r} is not injected"
        assert self._scale == 1, "other strengths need the base's weights"
        parked = ParkedParameters(place.base for place in self._places.values())
        try:
            yield
        finally:
            parked.back()

    @contextlib.contextmanager
    def set_aside(self) -> Iterator[None]:
        """Inside, the base's own weights are in their places, whatever the strength."""
        assert self._places, f"adapter {self.name!r} is not injected"
        held = {key: place.owner._parameters[place.name] for key, place in self._places.items()}
        try:
            for place in self._places.values():
                place.put(place.base)
            yield
        finally:
            for key, place in self._places.items():
                place.owner._parameters[place.name] = held[key]

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        assert self._trained, f"adapter {self.name!r} has no parameters before it is injected"
        groups: dict[str, list[nn.Parameter]] = {}
        for key, trained in self._trained.items():
            groups.setdefault(key.partition(".")[0], []).append(trained)
        return {component: tuple(parameters) for component, parameters in groups.items()}

    def weights_and_base(self) -> list[tuple[Tensor, Tensor]]:
        """Every trained weight and where it began, in float32; only while injected."""
        assert self._places, f"adapter {self.name!r} is not injected"
        return [(self._trained[key], place.base.detach().float()) for key, place in self._places.items()]

    def state_dict(self) -> dict[str, Tensor]:
        if self._pending is not None:
            return dict(self._pending)
        dtype = _STORAGE[self.config.storage]
        return {key: to_storage(trained.detach().to(dtype)) for key, trained in self._trained.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if not self._trained:
            self._pending = {key: to_storage(tensor) for key, tensor in state.items()}
            return
        check_state(self.name, self._trained, state)
        copy_into(self._trained, state)
        self.set_scale(self._scale)

    def set_scale(self, scale: float) -> None:
        """W + scale (W' - W); at values other than 0 and 1 a blended copy of the weights is made."""
        self._scale = scale
        for key, place in self._places.items():
            place.put(_blend(place.base, self._trained[key], scale))


def _like(base: Tensor, values: Tensor) -> Tensor:
    """A float32 copy of `values` in the base's memory format: channels_last kernels must not differ after loading."""
    return torch.empty_like(base, dtype=torch.float32).copy_(values.detach()).detach()


def _blend(base: nn.Parameter, trained: TrainedWeight, scale: float) -> nn.Parameter:
    if scale in (0, 1):
        return trained if scale == 1 else base
    blend = torch.lerp(base.detach().to(trained), trained.detach(), scale)
    return TrainedWeight(blend, requires_grad=False)


def _answer_in(table: nn.Embedding, dtype: torch.dtype) -> Callable[[], None]:
    """Let a lookup table in float32 answer in `dtype`, as autocast lets layers: norms that stay in that precision take
    nothing else on a CPU. Returns what undoes it."""
    return table.register_forward_hook(lambda _module, _inputs, found: found.to(dtype)).remove


def _run_under_autocast(component: nn.Module, dtype: torch.dtype) -> Callable[[], None]:
    """Let a component with float32 weights take and compute in `dtype`; returns what undoes it."""
    replaced = vars(component).get("forward")
    forward = component.forward

    @functools.wraps(forward)
    def run(*args: Any, **kwargs: Any) -> Any:
        device = next(component.parameters()).device.type
        with torch.autocast(device, dtype=dtype):
            return forward(*args, **kwargs)

    component.forward = run

    def undo() -> None:
        del component.forward
        if replaced is not None:
            component.forward = replaced

    return undo
