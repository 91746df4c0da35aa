"""What a new subject may disturb in weights that earlier ones changed (C-LoRA, Smith et al. 2023, arXiv 2304.06027)."""

from collections.abc import Iterable

import torch
from torch import Tensor

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.layers import merged_weights, original
from pcs_ext.image.adapters.low_rank import LowRankAdapter
from pcs_ext.image.adapters.low_rank_layers import LowRankLayer

_LINEAR = ("lora", "loha", "lokr")


class Forgetting:
    """The self-regularisation of the low-rank adapters that train now, on top of those that are injected already.

    Args:
        adapters: of the new subject, injected last.

    Raises:
        ConfigError: none of them changes weights by a low-rank update that is linear in its factor.
    """

    def __init__(self, adapters: Iterable[AbstractAdapter]) -> None:
        low_rank = [adapter for adapter in adapters if isinstance(adapter, LowRankAdapter)]
        layers = {
            f"{adapter.name}.{path}": layer
            for adapter in low_rank
            if adapter.config.method in _LINEAR
            for path, layer in adapter.layers().items()
        }
        if not layers:
            raise ConfigError(
                "forgetting_weight needs an adapter whose update is linear in its factor; expected a low_rank adapter "
                f"of method {', '.join(_LINEAR)} in the recipe. Set forgetting_weight to 0, or change the adapter."
            )
        self.layers = layers
        self.earlier = {path: _earlier(layer) for path, layer in layers.items()}

    @property
    def is_first(self) -> bool:
        """Whether nothing has changed any of these weights before."""
        return not any(update.any() for update in self.earlier.values())

    def __call__(self) -> Tensor:
        """|| |sum of earlier updates| * this update ||_F^2 summed over the layers, 0-d, differentiable."""
        terms = [(self.earlier[path] * layer.update()).square().sum() for path, layer in self.layers.items()]
        return torch.stack(terms).sum()


@torch.no_grad()
def _earlier(layer: LowRankLayer) -> Tensor:
    """|merged weight below - original weight|, float32."""
    base = original(layer).weight
    below = merged_weights(layer.below()).get("", base)
    return (below.float() - base.float()).abs()  # type: ignore[union-attr, operator]
