"""Adapters with networks of their own in the denoiser's passes: what they share of injecting, training and storing."""

import abc
from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar

from torch import Tensor, nn

from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.layers import check_name, check_state, copy_into, to_storage
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.predict_programs import Predict, add_prediction, remove_prediction
from pcs_ext.image.prompt_programs import Encode, add_program, remove_program
from pcs_ext.image.types import Conditioning

Network = TypeVar("Network", bound=nn.Module)


class AbstractPass(abc.ABC):
    """Stands around `encode_prompt`, to mark what prompts say, and around `predict`, until it leaves.

    Args:
        backbone: whose.
        word: of the marks, and its name among the programs; unique.
    """

    def __init__(self, backbone: AbstractBackbone, word: str) -> None:
        self.backbone, self.word = backbone, word
        add_program(backbone, word, self)
        add_prediction(backbone, word, self.answered)

    def leave(self) -> None:
        """Give both back."""
        remove_prediction(self.backbone, self.word)
        remove_program(self.backbone, self.word)

    @abc.abstractmethod
    def __call__(self, encode: Encode, prompts: Sequence[str], size: tuple[int, int] | None) -> Conditioning:
        """What prompts say, with marks where the subject is named."""

    @abc.abstractmethod
    def answered(
        self, predict: Predict, noisy_latents: Tensor, timesteps: Tensor, conditioning: Conditioning
    ) -> Tensor:
        """`predict`, the marked rows answered otherwise."""


class AbstractPassAdapter(AbstractAdapter, Generic[Network]):
    """Networks by their place in the denoiser, and tensors kept beside them, which do not train.

    State: `<prefix>.<place>.<tensor>`, and what is kept under its own names, absent until it is known.

    Args:
        name: see `AbstractAdapter`.
        prefix: of the networks' tensors.
        kept: how the names of what is kept begin.
    """

    def __init__(self, name: str, *, prefix: str, kept: str) -> None:
        self.name, self.scale = check_name(name), 1.0
        self.networks: dict[str, Network] = {}
        self.kept: dict[str, Tensor] = {}
        self._prefix, self._beside = prefix, kept
        self._pending: dict[str, Tensor] | None = None
        self._pass: AbstractPass | None = None

    @abc.abstractmethod
    def built(self, backbone: AbstractBackbone) -> dict[str, Network]:
        """Fresh networks for a backbone, by their place in its denoiser.

        Raises:
            ConfigError: it has no such places.
        """

    @abc.abstractmethod
    def standing(self, backbone: AbstractBackbone) -> AbstractPass:
        """What puts them into its passes."""

    def inject(self, backbone: AbstractBackbone) -> None:
        """Stand around `encode_prompt` and `predict`.

        Raises:
            ConfigError: the denoiser has no text cross-attention where the networks belong.
            ArtifactError: loaded tensors do not fit this backbone.
        """
        assert self._pass is None, f"adapter {self.name!r} is injected already"
        if not self.networks:
            networks = self.built(backbone)
            if self._pending is not None:
                self._fill(networks, self._pending)
            self.networks, self._pending = networks, None
        for network in self.networks.values():
            network.to(backbone.device)
        self._pass = self.standing(backbone)

    def eject(self) -> None:
        assert self._pass is not None, f"adapter {self.name!r} is not injected"
        self._pass.leave()
        self._pass = None

    def parameters(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        assert self.networks, f"adapter {self.name!r} has no parameters before it is injected"
        return {"denoiser": tuple(self._tensors(self.networks).values())}

    def state_dict(self) -> dict[str, Tensor]:
        if self._pending is not None:
            return dict(self._pending)
        return {key: to_storage(tensor) for key, tensor in {**self._tensors(self.networks), **self.kept}.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        stored = {key: to_storage(tensor) for key, tensor in state.items()}
        if self.networks:
            self._fill(self.networks, stored)
        else:
            self._pending = stored

    def set_scale(self, scale: float) -> None:
        self.scale = scale

    def _fill(self, networks: Mapping[str, Network], stored: Mapping[str, Tensor]) -> None:
        own, tensors = dict(stored), self._tensors(networks)
        kept = {key: own.pop(key) for key in sorted(stored) if key.startswith(self._beside)}
        check_state(self.name, tensors, own)
        copy_into(tensors, own)
        self.kept = kept

    def _tensors(self, networks: Mapping[str, Network]) -> dict[str, nn.Parameter]:
        return {
            f"{self._prefix}.{place}.{key}": value
            for place, network in networks.items()
            for key, value in network.named_parameters()
        }
