"""DisenBooth (Chen et al. 2023, arXiv 2305.03374): what one photo shows beside the subject, taken out of the words.

While photos are learned, a vector made of each photo by a frozen image encoder and a small network is added to all text
states. It carries what is particular to the photo, so that the subject's word and weights need not. Pictures are
generated without it.
"""

import dataclasses
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.layers import check_name, check_state, copy_into, to_storage
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.types import Batch, Conditioning


@config
class ImageResidualConfig:
    """f = z + up(relu(down(z))) with z = sigmoid(mask) * (image feature)."""

    kind: Literal["image_residual"] = "image_residual"
    """Tag of this adapter in JSON."""
    encoder: str = "toybox"
    """CLIP whose image features are read: `toybox`, a transformers folder or a hub id. Asked while photos are learned
    only."""
    width: int = 192
    """Of those features (`projection_dim`)."""
    init_seed: int = 0
    """Seed of the network; the mask starts at 0, which halves every number."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"width must be that of the encoder's features, got {self.width}.")


class ImageMapper(nn.Module):
    """Image features -> vectors for text states.

    Differs from the released code, where both have the same width: where they differ, a linear map comes first.
    """

    def __init__(self, width: int, text_width: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.entry = None if width == text_width else nn.Linear(width, text_width, bias=False)
            self.down, self.up = nn.Linear(text_width, text_width), nn.Linear(text_width, text_width)
        self.mask = nn.Parameter(torch.zeros(text_width))

    def forward(self, features: Tensor) -> Tensor:
        """`b width` -> `b text_width`."""
        told = features if self.entry is None else self.entry(features)
        kept = torch.sigmoid(self.mask) * told
        return kept + self.up(torch.relu(self.down(kept)))


class ImageResidualAdapter(AbstractAdapter):
    """The mapper; state: `mapper.<tensor>`. The backbone itself is not touched: `told` is asked by the objective."""

    def __init__(self, name: str, config: ImageResidualConfig) -> None:
        self.name = check_name(name)
        self.config = config
        self._mapper: ImageMapper | None = None
        self._pending: dict[str, Tensor] | None = None
        self._injected = False

    def inject(self, backbone: AbstractBackbone) -> None:
        """Make the mapper for this backbone's text states.

        Raises:
            ArtifactError: loaded tensors do not fit this backbone.
        """
        assert not self._injected, f"adapter {self.name!r} is injected already"
        if self._mapper is None:
            with torch.no_grad():
                text_width = backbone.encode_prompt([""]).states.shape[-1]
            mapper = ImageMapper(self.config.width, text_width, self.config.init_seed)
            if self._pending is not None:
                _load(self.name, mapper, self._pending)
            self._mapper, self._pending = mapper, None
        self._mapper.to(backbone.device)
        self._injected = True

    def eject(self) -> None:
        assert self._injected, f"adapter {self.name!r} is not injected"
        self._injected = False

    def vectors(self, batch: Batch) -> Tensor:
        """What is added to the text states of each photo, `b d`, float32."""
        assert self._mapper is not None, f"adapter {self.name!r} was never injected"
        assert batch.features is not None, "the batch has no image features"
        return self._mapper(batch.features.to(self._mapper.mask.device))

    def told(self, conditioning: Conditioning, batch: Batch) -> Conditioning:
        """The captions' conditioning with the photos' vectors added at every position."""
        vectors = self.vectors(batch).unsqueeze(1)
        per_layer = conditioning.per_layer

        def added(timesteps: Tensor, path: str) -> tuple[Tensor, Tensor]:
            assert per_layer is not None
            keys, values = per_layer(timesteps, path)
            return keys + vectors.to(keys.dtype), values + vectors.to(values.dtype)

        return dataclasses.replace(
            conditioning,
            states=conditioning.states + vectors.to(conditioning.states.dtype),
            per_layer=None if per_layer is None else added,
        )

    def alone(self, conditioning: Conditioning, batch: Batch) -> Conditioning:
        """The photos' vectors at every position, without the captions' states; what is pooled stays."""
        vectors = self.vectors(batch).unsqueeze(1).to(conditioning.states.dtype)
        return dataclasses.replace(conditioning, states=vectors.expand_as(conditioning.states), per_layer=None)

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        assert self._mapper is not None, f"adapter {self.name!r} has no parameters before it is injected"
        return {"image": tuple(self._mapper.parameters())}

    def state_dict(self) -> dict[str, Tensor]:
        if self._mapper is None:
            return dict(self._pending or {})
        return {key: to_storage(tensor) for key, tensor in _tensors(self._mapper).items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        if self._mapper is None:
            self._pending = {key: to_storage(tensor) for key, tensor in state.items()}
        else:
            _load(self.name, self._mapper, state)

    def set_scale(self, scale: float) -> None:
        """Nothing: at sampling the vectors are left out."""


def _tensors(mapper: ImageMapper) -> dict[str, nn.Parameter]:
    return {f"mapper.{name}": value for name, value in mapper.named_parameters()}


def _load(name: str, mapper: ImageMapper, state: Mapping[str, Tensor]) -> None:
    check_state(name, _tensors(mapper), state)
    copy_into(_tensors(mapper), state)
