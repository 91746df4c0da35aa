"""Bottleneck adapters behind layers (Houlsby et al. 2019; on diffusion models Xiang et al. 2023, arXiv 2303.18181)."""

from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.layer_adapter import Found, LayerAdapter, TrainedLayer
from pcs_ext.image.adapters.targets import TargetPreset, check_patterns, matching_layers
from pcs_ext.image.backbone import AbstractBackbone


@config
class BottleneckConfig:
    """y' = y + scale * up(relu(down(y))) behind linear layers of the denoiser."""

    kind: Literal["bottleneck"] = "bottleneck"
    """Tag of this adapter in JSON."""
    width: int = 64
    """Of the bottleneck."""
    scale: float = 1.0
    """Of the residual."""
    targets: TargetPreset | tuple[str, ...] = (r"\.attn2\.to_out\.0$",)
    """Layers whose output the adapters read: by default those that end the text cross-attentions, which the paper finds
    the best place."""
    init_seed: int = 0
    """Seed of `down`; `up` starts at zero."""

    def __post_init__(self) -> None:
        check_patterns(self.targets)
        if self.width < 1 or self.scale <= 0:
            raise ConfigError(f"width must be at least 1 and scale positive, got {self.width} and {self.scale}.")


class BottleneckLayer(TrainedLayer):
    """A linear layer and what reads its output. No weight of one layer has the same effect."""

    mergeable = False

    def __init__(self, base: nn.Linear, config: BottleneckConfig, generator: torch.Generator) -> None:
        super().__init__()
        self.base_layer: nn.Module | None = None
        out, width = base.out_features, config.width
        self.factor = config.scale
        self.down = nn.Parameter(torch.randn(width, out, generator=generator) / out**0.5)
        self.down_bias = nn.Parameter(torch.zeros(width))
        self.up = nn.Parameter(torch.zeros(out, width))
        self.up_bias = nn.Parameter(torch.zeros(out))
        self.scale = 1.0

    def below(self) -> nn.Module:
        assert self.base_layer is not None, "this layer stands nowhere"
        return self.base_layer

    def set_below(self, module: nn.Module | None) -> None:
        self.base_layer = module

    def tensors(self) -> dict[str, nn.Parameter]:
        return {"down": self.down, "down_bias": self.down_bias, "up": self.up, "up_bias": self.up_bias}

    def merge(self, weight: Tensor) -> Tensor:
        raise AssertionError("a bottleneck is no change of a weight; callers look at `mergeable` first")

    def forward(self, x: Tensor) -> Tensor:
        """`... in` -> `... out` in the base's dtype."""
        y = self.below()(x)
        if self.scale == 0:
            return y
        down, down_bias, up, up_bias = (value.to(y.dtype) for value in self.tensors().values())
        residual = F.linear(F.linear(y, down, down_bias).relu(), up, up_bias)
        return y + (self.scale * self.factor) * residual.to(y.dtype)


class BottleneckAdapter(LayerAdapter[BottleneckLayer]):
    """Bottlenecks; state: `denoiser.<module path>.{down,down_bias,up,up_bias}`."""

    def __init__(self, name: str, config: BottleneckConfig) -> None:
        super().__init__(name)
        self.config = config

    def _find(self, backbone: AbstractBackbone) -> Found:
        return {"denoiser": matching_layers("denoiser", backbone.denoiser, self.config.targets)}

    def _make(self, bases: Mapping[str, nn.Module]) -> dict[str, BottleneckLayer]:
        generator = torch.Generator().manual_seed(self.config.init_seed)
        layers: dict[str, BottleneckLayer] = {}
        for path, base in bases.items():
            if not isinstance(base, nn.Linear):
                raise ConfigError(
                    f"{path} is a convolution; bottlenecks stand behind linear layers. Narrow the targets."
                )
            layers[path] = BottleneckLayer(base, self.config, generator).eval()
        return layers
