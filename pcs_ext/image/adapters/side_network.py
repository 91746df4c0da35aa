"""Small networks at attention and feed-forward modules (Houlsby et al. 2019, arXiv 1902.00751).

On diffusion models: behind the text cross-attentions (Xiang et al. 2023, arXiv 2303.18181), beside them (DreamVideo).
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
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


@config
class SideNetworkConfig:
    """y = module(x) + up(act(down(x))), or y' = y + up(act(down(y))): a network of two layers at whole modules."""

    kind: Literal["side_network"] = "side_network"
    """Tag of this adapter in JSON."""
    targets: tuple[str, ...]
    """Regular expressions searched in paths of attention or feed-forward modules (`\\.attn2$`)."""
    components: tuple[Component, ...] = ("denoiser",)
    """Parts of the backbone."""
    reads: Literal["input", "output"] = "input"
    """`input`: the network stands beside the module; `output`: behind it, a bottleneck."""
    activation: Literal["gelu", "relu"] = "gelu"
    """Between the layers."""
    reduction: int = 2
    """Width of the module over that between the layers (DreamVideo: 2)."""
    width: int | None = None
    """Between the layers, instead of the reduction; None: by the reduction."""
    condition_width: int = 0
    """Width of an embedding that a third layer adds to what is read; 0: there is none."""
    init_seed: int = 0
    """Seed of the first layer; the second starts at zero, weight and bias."""

    def __post_init__(self) -> None:
        check_patterns(self.targets)
        if self.reduction < 1 or self.condition_width < 0:
            raise ConfigError(
                f"reduction must be at least 1 and condition_width not negative, got {self.reduction} and "
                f"{self.condition_width}."
            )
        if self.width is not None and self.width < 1:
            raise ConfigError(f"width must be at least 1, or null for the reduction's; got {self.width}.")


_ACTIVATIONS = {"gelu": F.gelu, "relu": F.relu}


class SideNetwork(nn.Module):
    """The network of one module."""

    def __init__(self, width: int, config: SideNetworkConfig) -> None:
        super().__init__()
        inner = config.width or max(1, width // config.reduction)
        self.activation = _ACTIVATIONS[config.activation]
        self.down, self.up = nn.Linear(width, inner), nn.Linear(inner, width)
        self.condition = nn.Linear(config.condition_width, width) if config.condition_width else None
        if config.activation == "relu":
            nn.init.zeros_(self.down.bias)  # else units that see small inputs may be off for good
        nn.init.zeros_(self.up.weight)
        nn.init.zeros_(self.up.bias)

    def forward(self, x: Tensor, condition: Tensor | None) -> Tensor:
        """`b ... d` and `1` or `b / k` embeddings `c`, each for k rows that follow each other -> `b ... d`."""
        if self.condition is not None:
            told = x.new_zeros(1, self.condition.in_features) if condition is None else condition.to(x)
            rows = self.condition(told).repeat_interleave(len(x) // len(told), 0)
            x = x + rows.reshape(len(x), *[1] * (x.dim() - 2), -1)
        return self.up(self.activation(self.down(x)))


class SideNetworkAdapter(AbstractAdapter):
    """Hooks behind the modules; state: `<component>.<module path>.{down,up,condition}.{weight,bias}`.

    With `condition_width`, `condition` is what the networks are told: set it before the denoiser runs; None tells them
    zeros. It must not change between forward and backward.
    """

    condition: Tensor | None = None

    def __init__(self, name: str, config: SideNetworkConfig) -> None:
        self.name = check_name(name)
        self.config = config
        self._networks: dict[str, SideNetwork] = {}
        self._handles: list[Any] = []
        self._pending: dict[str, Tensor] | None = None
        self._scale = 1.0

    def inject(self, backbone: AbstractBackbone) -> None:
        """Attach. Outputs do not change until the adapter is trained.

        Raises:
            NoMatchingModulesError: the targets match no module.
            UsageError: a module is neither attention nor feed-forward.
            ArtifactError: loaded tensors do not fit this backbone.
        """
        assert not self._handles, f"adapter {self.name!r} is injected already"
        modules = self._find(backbone)
        if not self._networks:
            self._build(modules)
        assert modules.keys() == self._networks.keys(), "injected into a backbone of another layout"
        for key, module in modules.items():
            self._networks[key].to(backbone.device)
            self._handles.append(module.register_forward_hook(self._at(self._networks[key])))

    def _find(self, backbone: AbstractBackbone) -> dict[str, nn.Module]:
        found = {
            f"{component}.{canonical_path(component, path)}": module
            for component, root in pick_components(backbone, self.config.components).items()
            for path, module in original_modules(root)
            if any(re.search(pattern, canonical_path(component, path)) for pattern in self.config.targets)
        }
        if not found:
            raise NoMatchingModulesError(
                f"targets {list(self.config.targets)} match no module of {backbone.name}; expected attention or "
                "feed-forward modules such as ...attn2."
            )
        return found

    def _build(self, modules: Mapping[str, nn.Module]) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.init_seed)
            networks = {key: SideNetwork(_width(key, module), self.config) for key, module in modules.items()}
        if self._pending is not None:
            _load(self.name, networks, self._pending)
        self._networks, self._pending = networks, None

    def _at(self, network: SideNetwork) -> Callable[..., Any]:
        def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
            if self._scale == 0:
                return None
            states = inputs[0] if self.config.reads == "input" else output
            # The networks stay in float32; under autocast the products pick their own precision.
            added = network(states if torch.is_autocast_enabled(states.device.type) else states.float(), self.condition)
            return output + (self._scale * added).to(output.dtype)

        return hook

    def eject(self) -> None:
        assert self._handles, f"adapter {self.name!r} is not injected"
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        assert self._networks, f"adapter {self.name!r} has no parameters before it is injected"
        groups: dict[str, list[nn.Parameter]] = {}
        for key, network in self._networks.items():
            groups.setdefault(key.partition(".")[0], []).extend(network.parameters())
        return {component: tuple(parameters) for component, parameters in groups.items()}

    def state_dict(self) -> dict[str, Tensor]:
        if self._pending is not None:
            return dict(self._pending)
        return {key: to_storage(tensor) for key, tensor in _tensors(self._networks).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if self._networks:
            _load(self.name, self._networks, state)
        else:
            self._pending = {key: to_storage(tensor) for key, tensor in state.items()}

    def set_scale(self, scale: float) -> None:
        self._scale = scale


def _width(key: str, module: Any) -> int:
    """Channels of a module's input and output: diffusers' Attention or FeedForward.

    Raises:
        UsageError: it is something else.
    """
    if hasattr(module, "query_dim"):
        return module.query_dim
    if hasattr(module, "net") and hasattr(module.net[0], "proj"):
        return module.net[0].proj.weight.shape[1]
    raise UsageError(f"{key} is {type(module).__name__}; side networks stand at attention or feed-forward modules.")


def _tensors(networks: Mapping[str, SideNetwork]) -> dict[str, nn.Parameter]:
    return {f"{key}.{name}": value for key, network in networks.items() for name, value in network.named_parameters()}


def _load(name: str, networks: Mapping[str, SideNetwork], state: Mapping[str, Tensor]) -> None:
    tensors = _tensors(networks)
    check_state(name, tensors, state)
    copy_into(tensors, state)
