"""Shifts of singular values (SVDiff, Han et al. 2023, arXiv 2303.11305): a layer keeps its singular vectors."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.layer_adapter import Found, LayerAdapter, TrainedLayer, pick_components
from pcs_ext.image.adapters.low_rank_config import Component
from pcs_ext.image.adapters.targets import TargetPreset, check_patterns, matching_layers
from pcs_ext.image.backbone import AbstractBackbone


@config
class SpectralShiftConfig:
    """W' = U diag(relu(s + delta)) V^T, of which delta trains; kernels are read as `out (in*k*k)` matrices."""

    kind: Literal["svd"] = "svd"
    """Tag of this adapter in JSON."""
    targets: TargetPreset | tuple[str, ...] = (".*",)
    """Layers: a preset, or regular expressions searched in module paths; the paper shifts all."""
    components: tuple[Component, ...] = ("denoiser",)
    """Parts of the backbone."""

    def __post_init__(self) -> None:
        check_patterns(self.targets)
        if not self.components or len(set(self.components)) != len(self.components):
            raise ConfigError(f"components must be distinct and at least one, got {list(self.components)}.")


class SpectralShiftLayer(TrainedLayer):
    """A linear layer or convolution at shifted singular values: y = base(x) + U diag(relu(s + delta) - s) V^T x.

    The base is kept and the difference added, so that an untrained layer is the base exactly and not up to the rounding
    of a decomposition. At strength c the values are relu(s + c delta), as the method scales them.
    """

    def __init__(self, base: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        self.base_layer: nn.Module | None = None
        left, values, right = torch.linalg.svd(base.weight.detach().float().flatten(1), full_matrices=False)
        for name, value in (("left", left), ("values", values), ("right", right)):
            self.register_buffer(name, value.contiguous(), persistent=False)
        self.left: Tensor
        """`out r`."""
        self.values: Tensor
        """`r`, falling."""
        self.right: Tensor
        """`r in` (or in*k*k)."""
        self.delta = nn.Parameter(torch.zeros_like(values))
        self.scale = 1.0

    def below(self) -> nn.Module:
        assert self.base_layer is not None, "this layer stands nowhere"
        return self.base_layer

    def set_below(self, module: nn.Module | None) -> None:
        self.base_layer = module

    def tensors(self) -> dict[str, nn.Parameter]:
        return {"delta": self.delta}

    def shift(self) -> Tensor:
        """relu(s + scale * delta) - s, `r`, float32, differentiable."""
        return (self.values + self.scale * self.delta).relu() - self.values

    def merge(self, weight: Tensor) -> Tensor:
        return weight.float() + ((self.left * self.shift()) @ self.right).view_as(weight)

    def forward(self, x: Tensor) -> Tensor:
        """As the base layer; same shapes and dtype."""
        base = self.below()(x)
        if self.scale == 0:
            return base
        right, left = self.right.to(x.dtype), (self.left * self.shift()).to(x.dtype)
        if x.dim() == 4 and self.weight.dim() == 4:
            conv = self._convolution()
            kernels = right.view(-1, *self.weight.shape[1:])
            hidden = F.conv2d(x, kernels, stride=conv.stride, padding=conv.padding, dilation=conv.dilation)  # type: ignore[arg-type]
            return base + F.conv2d(hidden, left[:, :, None, None]).to(base.dtype)
        return base + F.linear(F.linear(x, right), left).to(base.dtype)

    def _convolution(self) -> nn.Conv2d:
        module = self.below()
        while not isinstance(module, nn.Conv2d):
            assert isinstance(module, TrainedLayer)
            module = module.below()
        return module


class SpectralShiftAdapter(LayerAdapter[SpectralShiftLayer]):
    """Shifted singular values; state: `<component>.<module path>.delta`, one number per singular value."""

    def __init__(self, name: str, config: SpectralShiftConfig) -> None:
        super().__init__(name)
        self.config = config

    def _find(self, backbone: AbstractBackbone) -> Found:
        modules = pick_components(backbone, self.config.components)
        return {name: matching_layers(name, module, self.config.targets) for name, module in modules.items()}

    def _make(self, bases: Mapping[str, nn.Module]) -> dict[str, SpectralShiftLayer]:
        layers = {path: base for path, base in bases.items() if isinstance(base, (nn.Linear, nn.Conv2d))}
        grouped = [path for path, base in layers.items() if isinstance(base, nn.Conv2d) and base.groups > 1]
        if grouped:
            raise ConfigError(
                f"{grouped[0]} is a grouped convolution, which svd cannot shift; leave it out of targets."
            )
        return {path: SpectralShiftLayer(base).eval() for path, base in layers.items()}
