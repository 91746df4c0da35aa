"""Weights times one plus a regularised offset (E4T, Gal et al. 2023, arXiv 2302.12228, section 4.2).

An offset has the shape of its weight and few degrees of freedom: the product of a column and a row, each a map of one
number, mixed along columns and along rows. It is the same for every subject: the base learns to take up new ones.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.image.adapters.layer_adapter import Found, LayerAdapter, TrainedLayer, pick_components
from pcs_ext.image.adapters.targets import matching_layers
from pcs_ext.image.backbone import AbstractBackbone


class OffsetLinear(TrainedLayer):
    """y = base(x) + scale x (W * offset)^T.

    Differs from the public port in its beginning: the mixing along rows begins at zero, so that the layer begins as the
    base.
    """

    def __init__(self, base: nn.Linear, generator: torch.Generator) -> None:
        super().__init__()
        self.base_layer: nn.Module | None = None
        rows, columns = base.weight.shape
        self.column = nn.Parameter(torch.randn(rows, generator=generator))
        self.row = nn.Parameter(torch.randn(columns, generator=generator))
        self.along_columns = nn.Parameter(torch.randn(rows, rows, generator=generator) / rows**0.5)
        self.along_rows = nn.Parameter(torch.zeros(columns, columns))
        self.scale = 1.0

    def tensors(self) -> dict[str, nn.Parameter]:
        return {
            "column": self.column, "row": self.row, "along_columns": self.along_columns, "along_rows": self.along_rows,
        }  # fmt: skip

    def offset(self) -> Tensor:
        """Shaped like the weight, float32."""
        return torch.outer(self.along_columns @ self.column, self.row) @ self.along_rows

    def below(self) -> nn.Module:
        assert self.base_layer is not None, "this layer stands nowhere"
        return self.base_layer

    def set_below(self, module: nn.Module | None) -> None:
        self.base_layer = module

    def merge(self, weight: Tensor) -> Tensor:
        return weight.float() + self.scale * self.weight.float() * self.offset()

    def forward(self, x: Tensor) -> Tensor:
        """`... in` -> `... out` in the base's dtype."""
        result = self.below()(x)
        if self.scale == 0:
            return result
        moved = self.scale * self.weight.float() * self.offset()
        return result + F.linear(x, moved.to(x.dtype)).to(result.dtype)


class WeightOffsetAdapter(LayerAdapter[OffsetLinear]):
    """Offsets of every attention projection of the denoiser; state: `denoiser.<module path>.<tensor>`.

    Args:
        name: of the adapter.
        seed: of the starting values.
    """

    def __init__(self, name: str, seed: int = 0) -> None:
        super().__init__(name)
        self.seed = seed

    def _find(self, backbone: AbstractBackbone) -> Found:
        modules = pick_components(backbone, ("denoiser",))
        found = {name: matching_layers(name, module, "attention") for name, module in modules.items()}
        return {
            name: {path: place for path, place in layers.items() if isinstance(place[1], nn.Linear)}
            for name, layers in found.items()
        }

    def _make(self, bases: Mapping[str, nn.Module]) -> dict[str, OffsetLinear]:
        generator = torch.Generator().manual_seed(self.seed)
        return {
            path: OffsetLinear(base, generator).eval() for path, base in bases.items() if isinstance(base, nn.Linear)
        }
