"""Low-rank factors of what attention multiplies, head by head (COMCAT, Xiao et al. 2023, arXiv 2305.17235)."""

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.layers import check_name, check_state, copy_into, original, to_storage
from pcs_ext.image.attention import add_to_heads, remove_from_heads, self_attention_paths
from pcs_ext.image.backbone import AbstractBackbone


@config
class HeadFactorsConfig:
    """In every head W_q W_k^T gains a product of rank r, and so does W_v W_o."""

    kind: Literal["head_factors"] = "head_factors"
    """Tag of this adapter in JSON."""
    rank: int = 2
    """r, in all self-attentions and text cross-attentions. With 2, 1,591,296 numbers on SD 1.x (6.4 MB)."""
    init_seed: int = 0
    """Seed of the factors of queries and values; those of keys and outputs start at 0."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ConfigError(f"rank must be at least 1, got {self.rank}.")


class HeadFactors(nn.Module):
    """The four factors of one attention; float32.

    Args:
        heads: of the attention.
        widths: of hidden states, of what keys and values read, and of the output.
        rank: r.
        generator: of the starting values.
    """

    def __init__(self, heads: int, widths: tuple[int, int, int], rank: int, generator: torch.Generator) -> None:
        super().__init__()
        self.heads, self.scale = heads, 1.0
        hidden, states, out = widths

        def drawn(width: int) -> nn.Parameter:
            bound = 1 / math.sqrt(width)
            return nn.Parameter((2 * torch.rand(heads * rank, width, generator=generator) - 1) * bound)

        self.query, self.value = drawn(hidden), drawn(states)
        self.key = nn.Parameter(torch.zeros(heads * rank, states))
        self.out = nn.Parameter(torch.zeros(out, heads * rank))

    def project(self, hidden: Tensor, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See `HeadAddition`; each factor is multiplied by the scale, as the released code does."""
        pairs = ((hidden, self.query), (states, self.key), (states, self.value))
        return tuple(  # type: ignore[return-value]
            self.scale * F.linear(x, factor.to(x.dtype)).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for x, factor in pairs
        )

    def read_out(self, mixed: Tensor) -> Tensor:
        """See `HeadAddition`."""
        return self.scale * F.linear(mixed.transpose(1, 2).flatten(2), self.out.to(mixed.dtype))


class HeadFactorsAdapter(AbstractAdapter):
    """Factors in every attention of the denoiser; state: `denoiser.<module path>.<query, key, value or out>`.

    Differs from the released code, where all four factors start at random: here the output does not change before
    training. No weight of the base could do the same, so nothing is merged.
    """

    def __init__(self, name: str, config: HeadFactorsConfig) -> None:
        self.name = check_name(name)
        self.config = config
        self.factors: dict[str, HeadFactors] = {}
        self._backbone: AbstractBackbone | None = None
        self._pending: dict[str, Tensor] | None = None
        self._scale = 1.0

    def inject(self, backbone: AbstractBackbone) -> None:
        """Join the heads.

        Raises:
            ArtifactError: loaded tensors do not fit this backbone.
        """
        assert self._backbone is None, f"adapter {self.name!r} is injected already"
        if not self.factors:
            self._build(backbone)
        for path, factors in self.factors.items():
            add_to_heads(backbone, path, factors.to(backbone.device))
        self._backbone = backbone

    def _build(self, backbone: AbstractBackbone) -> None:
        generator = torch.Generator().manual_seed(self.config.init_seed)
        factors: dict[str, HeadFactors] = {}
        for path in (*self_attention_paths(backbone), *backbone.cross_attention_paths()):
            attention = backbone.denoiser.get_submodule(path)
            layers: list[Any] = [original(layer) for layer in (attention.to_q, attention.to_k, attention.to_out[0])]
            query, key, out = layers
            widths = query.in_features, key.in_features, out.out_features
            factors[path] = HeadFactors(attention.heads, widths, self.config.rank, generator)
        if self._pending is not None:
            _load(self.name, factors, self._pending)
        self.factors, self._pending = factors, None
        self.set_scale(self._scale)

    def eject(self) -> None:
        assert self._backbone is not None, f"adapter {self.name!r} is not injected"
        for path, factors in self.factors.items():
            remove_from_heads(self._backbone, path, factors)
        self._backbone = None

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        assert self.factors, f"adapter {self.name!r} has no parameters before it is injected"
        return {"denoiser": tuple(_tensors(self.factors).values())}

    def state_dict(self) -> dict[str, Tensor]:
        if self._pending is not None:
            return dict(self._pending)
        return {key: to_storage(tensor) for key, tensor in _tensors(self.factors).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if self.factors:
            _load(self.name, self.factors, state)
        else:
            self._pending = {key: to_storage(tensor) for key, tensor in state.items()}

    def set_scale(self, scale: float) -> None:
        self._scale = scale
        for factors in self.factors.values():
            factors.scale = scale


def _tensors(factors: Mapping[str, HeadFactors]) -> dict[str, nn.Parameter]:
    return {
        f"denoiser.{path}.{key}": tensor
        for path, module in factors.items()
        for key, tensor in module.named_parameters()
    }


def _load(name: str, factors: Mapping[str, HeadFactors], state: Mapping[str, Tensor]) -> None:
    check_state(name, _tensors(factors), state)
    copy_into(_tensors(factors), state)
