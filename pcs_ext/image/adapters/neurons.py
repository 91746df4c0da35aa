"""Concept neurons: a subject as a sparse set of weights that are shut (Cones, Liu et al. 2023, arXiv 2303.05125)."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ArtifactError, ConfigError
from pcs_ext.image.adapters.layer_adapter import Found, LayerAdapter, TrainedLayer
from pcs_ext.image.adapters.layers import to_storage
from pcs_ext.image.adapters.targets import TEXT_KEYS_AND_VALUES, matching_layers
from pcs_ext.image.backbone import AbstractBackbone


@config
class NeuronsConfig:
    """W' = W with a share of its numbers set to zero, in every cross-attention's keys and values."""

    kind: Literal["neurons"] = "neurons"
    """Tag of this adapter in JSON."""
    share: float = 0.005
    """Of a layer's weights that are shut at most, in (0, 1). Ours (docs/LOG.md): the paper thresholds, by values not
    known here."""

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise ConfigError(f"share of the weights that are shut must be in (0, 1), got {self.share}.")


class _Shut(torch.autograd.Function):
    """1 for the neurons with the lowest negative scores, and the gradient of `1 - that` for the scores as they are."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, count: int) -> Tensor:
        return lowest(scores, count).to(scores)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -gradients[0], None


def lowest(scores: Tensor, count: int) -> Tensor:
    """Which of the scores are below zero and among the `count` lowest, bool; ties beyond the count are all in."""
    edge = scores.flatten().kthvalue(count).values
    return (scores <= edge) & (scores < 0)


class NeuronLayer(TrainedLayer):
    """A linear layer of which some weights are shut: y = base(x) - scale x (shut * W)^T.

    A score per weight is trained. The derivative of the loss by a weight's presence is W dL/dW; plain gradient descent
    (sgd without momentum) therefore adds up its negative over the steps: the paper's statistic, whose lowest sums mark
    the neurons whose absence brings the subject.
    """

    def __init__(self, base: nn.Linear, share: float) -> None:
        super().__init__()
        self.base_layer: nn.Module | None = None
        self.scores = nn.Parameter(torch.zeros_like(base.weight, dtype=torch.float32))
        self.count = max(1, round(share * base.weight.numel()))
        self.scale = 1.0

    def below(self) -> nn.Module:
        assert self.base_layer is not None, "this layer stands nowhere"
        return self.base_layer

    def set_below(self, module: nn.Module | None) -> None:
        self.base_layer = module

    def tensors(self) -> dict[str, nn.Parameter]:
        return {"scores": self.scores}

    def shut(self) -> Tensor:
        """1 for weights that are shut, 0 for the others, like the weight, float32. Differentiable by the scores."""
        return _Shut.apply(self.scores, self.count)  # type: ignore[no-any-return]

    def merge(self, weight: Tensor) -> Tensor:
        return weight.float() * (1 - self.scale * self.shut())

    def forward(self, x: Tensor) -> Tensor:
        """`... in` -> `... out` in the base's dtype."""
        result = self.below()(x)
        if self.scale == 0:
            return result
        gone = self.scale * self.shut() * self.weight.float()
        return result - F.linear(x, gone.to(x.dtype)).to(result.dtype)


class NeuronAdapter(LayerAdapter[NeuronLayer]):
    """Shut weights; state: `denoiser.<module path>.shut`, int32: which numbers of the flattened weight.

    Only these integers are stored, as in the paper. The scores behind them are training's own; a run that is killed
    gets them back from its checkpoint. Of two such adapters on one base each takes its own weights out, one in both
    twice: `pcs-ext merge` takes the union.
    """

    def __init__(self, name: str, config: NeuronsConfig) -> None:
        super().__init__(name)
        self.config = config

    def _find(self, backbone: AbstractBackbone) -> Found:
        return {"denoiser": matching_layers("denoiser", backbone.denoiser, TEXT_KEYS_AND_VALUES)}

    def _make(self, bases: Mapping[str, nn.Module]) -> dict[str, NeuronLayer]:
        layers = {}
        for path, base in bases.items():
            assert isinstance(base, nn.Linear), f"{path} is no linear layer"
            layers[path] = NeuronLayer(base, self.config.share).eval()
        return layers

    def state_dict(self) -> dict[str, Tensor]:
        """`<component>.<module path>.shut`, int32."""
        if self._pending is not None:
            return dict(self._pending)
        return {
            f"{path}.shut": to_storage(layer.shut().flatten().nonzero()[:, 0].to(torch.int32))
            for path, layer in self.layers().items()
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if not self._layers:
            self._pending = {key: to_storage(tensor) for key, tensor in state.items()}
            return
        self._shut(self.layers(), state)

    def _build(self, found: Found) -> None:
        pending, self._pending = self._pending, None
        super()._build(found)
        if pending is not None:
            self._shut(self.layers(), pending)

    def _shut(self, layers: Mapping[str, NeuronLayer], state: Mapping[str, Tensor]) -> None:
        if {f"{path}.shut" for path in layers} != state.keys():
            wrong = sorted({f"{path}.shut" for path in layers} ^ state.keys())
            raise ArtifactError(
                f"the tensors do not fit adapter {self.name!r}; was it made for another base? Missing or unexpected: "
                f"{', '.join(wrong[:5])}."
            )
        for path, layer in layers.items():
            indices = state[f"{path}.shut"].long()
            count = layer.scores.numel()
            if indices.dim() != 1 or ((indices < 0) | (indices >= count)).any():
                raise ArtifactError(f"{path}.shut of adapter {self.name!r} names weights that the layer does not have.")
            scores = torch.zeros(count)
            scores[indices] = -1
            layer.scores.data.copy_(scores.view_as(layer.scores))
