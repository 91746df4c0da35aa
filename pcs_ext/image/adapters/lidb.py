"""Lightweight DreamBooth: low-rank updates inside a random basis that is never stored (HyperDreamBooth, Ruiz et al.
2023, arXiv 2307.06949, section 4.1).

dW = A_aux A_train B_train B_aux. The outer matrices are drawn once from a seed, with orthonormal columns and rows, and
stay; the inner ones are a few numbers for each layer: of Stable Diffusion 1.x 26,400 in all, 106 kB.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ArtifactError, ConfigError
from pcs_ext.image.adapters.layer_adapter import Found, LayerAdapter, TrainedLayer, pick_components
from pcs_ext.image.adapters.low_rank_config import Component
from pcs_ext.image.adapters.targets import TargetPreset, check_patterns, matching_layers
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.runtime import generator_for


@config
class LiDBConfig:
    """W' = W + A_aux A_train B_train B_aux, of which A_train and B_train learn."""

    kind: Literal["lidb"] = "lidb"
    """Tag of this adapter in JSON."""
    up: int = 100
    """Columns of A_aux (a in the paper, whose value this is); a layer with fewer outputs takes as many as it has."""
    down: int = 50
    """Rows of B_aux (b in the paper, whose value this is); a layer with fewer inputs takes as many as it has."""
    rank: int = 1
    """Rank r of dW (the paper's)."""
    targets: TargetPreset | tuple[str, ...] = "attention"
    """Linear layers: a preset, or regular expressions searched in module paths."""
    components: tuple[Component, ...] = ("denoiser",)
    """Parts of the backbone."""
    seed: int = 0
    """Of the basis: with another one the same numbers mean something else."""

    def __post_init__(self) -> None:
        check_patterns(self.targets)
        if self.rank < 1 or min(self.up, self.down) < self.rank:
            raise ConfigError(
                f"rank must be at least 1 and up and down at least the rank, got rank {self.rank}, up {self.up}, "
                f"down {self.down}."
            )
        if not self.components or len(set(self.components)) != len(self.components):
            raise ConfigError(f"components must be distinct and at least one, got {list(self.components)}.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LiDBSpace:
    """The space that one layer's update lies in."""

    wide: Tensor
    """A_aux, `out a`, orthonormal columns."""
    flat: Tensor
    """B_aux, `b in`, orthonormal rows."""
    start: Tensor
    """Where B_train begins, `r b`, rows of length 1; A_train begins at 0."""

    @classmethod
    def of(cls, config: LiDBConfig, path: str, outputs: int, inputs: int) -> "LiDBSpace":
        """That of a layer; the same on every device and machine.

        Args:
            config: of the adapter.
            path: the component and the layer's canonical path.
            outputs: of the layer.
            inputs: of the layer.
        """
        down = min(config.down, inputs)
        begin = torch.randn(config.rank, down, generator=generator_for(config.seed, path, "start"))
        return cls(
            wide=orthonormal(outputs, min(config.up, outputs), generator_for(config.seed, path, "up")),
            flat=orthonormal(inputs, down, generator_for(config.seed, path, "down")).T.contiguous(),
            start=F.normalize(begin, dim=-1),
        )


def orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """A random matrix with orthonormal columns, `rows columns`, float32, `columns` at most `rows`.

    Signs are settled, since libraries of linear algebra differ in them.
    """
    drawn = torch.randn(rows, columns, generator=generator, dtype=torch.float64)
    basis, triangle = torch.linalg.qr(drawn)
    return (basis * triangle.diagonal().sign()).float()


class LiDBLinear(TrainedLayer):
    """y = base(x) + scale x (A_aux A_train B_train B_aux)^T."""

    wide: Tensor
    flat: Tensor

    def __init__(self, space: LiDBSpace) -> None:
        super().__init__()
        self.base_layer: nn.Module | None = None
        self.register_buffer("wide", space.wide, persistent=False)
        self.register_buffer("flat", space.flat, persistent=False)
        self.up = nn.Parameter(torch.zeros(space.wide.shape[1], len(space.start)))
        self.down = nn.Parameter(space.start.clone())
        self.scale = 1.0

    def tensors(self) -> dict[str, nn.Parameter]:
        return {"lidb_up": self.up, "lidb_down": self.down}

    def factors(self) -> tuple[Tensor, Tensor]:
        """dW as a product, `out r` and `r in`."""
        return self.wide @ self.up, self.down @ self.flat

    def below(self) -> nn.Module:
        assert self.base_layer is not None, "this layer stands nowhere"
        return self.base_layer

    def set_below(self, module: nn.Module | None) -> None:
        self.base_layer = module

    def merge(self, weight: Tensor) -> Tensor:
        up, down = self.factors()
        return weight.float() + self.scale * (up @ down)

    def forward(self, x: Tensor) -> Tensor:
        """`... in` -> `... out` in the base's dtype."""
        result = self.below()(x)
        if self.scale == 0:
            return result
        up, down = self.factors()
        hidden = F.linear(x, down.to(x.dtype))
        return result + F.linear(hidden, (self.scale * up).to(hidden.dtype)).to(result.dtype)


class LiDBAdapter(LayerAdapter[LiDBLinear]):
    """Lightweight DreamBooth in front of the targets.

    State: `<component>.<module path>.lidb_up` (A_train, `a r`), `lidb_down` (B_train, `r b`), and `lidb_size`, outputs
    and inputs of the layer, of which the basis is drawn.
    """

    def __init__(self, name: str, config: LiDBConfig) -> None:
        super().__init__(name)
        self.config = config
        self._sizes: dict[str, Tensor] = {}

    def _find(self, backbone: AbstractBackbone) -> Found:
        return lidb_layers(self.config, backbone)

    def _make(self, bases: Mapping[str, nn.Module]) -> dict[str, LiDBLinear]:
        shapes = {path: base.weight.shape for path, base in bases.items() if isinstance(base, nn.Linear)}
        own = {f"{path}{_SIZE}": torch.tensor(shape, dtype=torch.int32) for path, shape in shapes.items()}
        if self._pending is not None:
            self._check_sizes(own, self._pending)
            self._pending = {key: value for key, value in self._pending.items() if not key.endswith(_SIZE)}
        self._sizes = own
        return {path: LiDBLinear(LiDBSpace.of(self.config, path, *shape)).eval() for path, shape in shapes.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """See `LayerAdapter.state_dict`."""
        return {**super().state_dict(), **({} if self._pending is not None else self._sizes)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `LayerAdapter.load_state_dict`."""
        if self._layers:
            self._check_sizes(self._sizes, state)
            state = {key: value for key, value in state.items() if not key.endswith(_SIZE)}
        super().load_state_dict(state)

    def _check_sizes(self, own: Mapping[str, Tensor], got: Mapping[str, Tensor]) -> None:
        faults = [key for key, size in own.items() if key in got and got[key].tolist() != size.tolist()]
        if faults:
            raise ArtifactError(
                f"adapter {self.name!r} was made for layers of other sizes: {faults[0].removesuffix(_SIZE)} is "
                f"{own[faults[0]].tolist()} here and was {got[faults[0]].tolist()}. Use the base it was made for."
            )


_SIZE = ".lidb_size"


def lidb_layers(config: LiDBConfig, backbone: AbstractBackbone) -> dict[str, dict[str, tuple[str, nn.Linear]]]:
    """The linear layers that a configuration names, as `LayerAdapter` finds them."""
    modules = pick_components(backbone, config.components)
    found = {name: matching_layers(name, module, config.targets) for name, module in modules.items()}
    return {
        name: {path: (place, layer) for path, (place, layer) in layers.items() if isinstance(layer, nn.Linear)}
        for name, layers in found.items()
    }
