"""Key and value projections of the text cross-attentions (Custom Diffusion, Kumari et al. 2022, arXiv 2212.04488)."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError, NoMatchingModulesError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.layers import (
    AdapterLayer,
    attach,
    check_name,
    check_state,
    copy_into,
    detach,
    original_modules,
    to_storage,
)
from pcs_ext.image.backbone import AbstractBackbone

Projection = Literal["to_q", "to_k", "to_v", "to_out.0"]


@config
class CrossAttentionConfig:
    """Full-rank changes of projections in every text cross-attention of the denoiser."""

    kind: Literal["cross_attention"] = "cross_attention"
    """Tag of this adapter in JSON."""
    projections: tuple[Projection, ...] = ("to_k", "to_v")
    """Which projections train; the paper trains keys and values. 19,169,280 numbers on SD 1.x."""

    def __post_init__(self) -> None:
        if not self.projections or len(set(self.projections)) != len(self.projections):
            raise ConfigError(f"projections must be distinct and at least one, got {list(self.projections)}.")


class DeltaLinear(AdapterLayer):
    """A linear layer plus a trained difference of its weight: y = base(x) + scale x D^T.

    The difference is a float32 parameter of its own: it starts at zero, so the layer starts exactly as the base, and
    what training does to it is not lost in the rounding of a base in lower precision.
    """

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer: nn.Module | None = None
        self.delta = nn.Parameter(torch.zeros_like(base.weight, dtype=torch.float32))
        self.scale = 1.0

    def below(self) -> nn.Module:
        assert self.base_layer is not None, "this layer stands nowhere"
        return self.base_layer

    def set_below(self, module: nn.Module | None) -> None:
        self.base_layer = module

    def merge(self, weight: Tensor) -> Tensor:
        return weight.float() + self.scale * self.delta

    def forward(self, x: Tensor) -> Tensor:
        """`... in` -> `... out` in the base's dtype."""
        result = self.below()(x)
        if self.scale == 0:
            return result
        delta = self.delta if self.scale == 1 else self.scale * self.delta
        return result + F.linear(x, delta.to(x.dtype)).to(result.dtype)


class CrossAttentionAdapter(AbstractAdapter):
    """Differences of cross-attention projections; state: `denoiser.<module path>.delta`."""

    def __init__(self, name: str, config: CrossAttentionConfig) -> None:
        self.name = check_name(name)
        self.config = config
        self._layers: dict[str, DeltaLinear] = {}
        self._denoiser: nn.Module | None = None
        self._pending: dict[str, Tensor] | None = None
        self._scale = 1.0

    def inject(self, backbone: AbstractBackbone) -> None:
        assert self._denoiser is None, f"adapter {self.name!r} is injected already"
        if not self._layers:
            self._build(backbone)
        for path, layer in self._layers.items():
            attach(backbone.denoiser, path, layer)
            layer.delta.data = layer.delta.data.to(layer.weight.device)
        self._denoiser = backbone.denoiser

    def _build(self, backbone: AbstractBackbone) -> None:
        modules = dict(original_modules(backbone.denoiser))
        paths = [f"{path}.{name}" for path in backbone.cross_attention_paths() for name in self.config.projections]
        if not paths:
            raise NoMatchingModulesError(
                f"backbone {backbone.name} has no text cross-attention, so there is nothing to adapt; "
                "use a low_rank adapter on its attention layers."
            )
        layers: dict[str, DeltaLinear] = {}
        for path in paths:
            module = modules.get(path)
            if not isinstance(module, nn.Linear):
                raise NoMatchingModulesError(f"{path} is {type(module).__name__}, expected a Linear layer.")
            layers[path] = DeltaLinear(module).eval()
        if self._pending is not None:
            _load(self.name, layers, self._pending)
        self._layers, self._pending = layers, None
        self.set_scale(self._scale)

    def eject(self) -> None:
        assert self._denoiser is not None, f"adapter {self.name!r} is not injected"
        for path, layer in self._layers.items():
            detach(self._denoiser, path, layer)
        self._denoiser = None

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        assert self._layers, f"adapter {self.name!r} has no parameters before it is injected"
        return {"denoiser": tuple(layer.delta for layer in self._layers.values())}

    def state_dict(self) -> dict[str, Tensor]:
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
        for layer in self._layers.values():
            layer.scale = scale


def _tensors(layers: Mapping[str, DeltaLinear]) -> dict[str, nn.Parameter]:
    return {f"denoiser.{path}.delta": layer.delta for path, layer in layers.items()}


def _load(name: str, layers: Mapping[str, DeltaLinear], state: Mapping[str, Tensor]) -> None:
    tensors = _tensors(layers)
    check_state(name, tensors, state)
    copy_into(tensors, state)
