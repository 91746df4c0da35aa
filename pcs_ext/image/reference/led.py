"""Systems in which a branch beside the denoiser reads condition maps, and what photos tell."""

import abc
import contextlib
from collections.abc import Iterator
from typing import Any, ClassVar

from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.predict_programs import Predict
from pcs_ext.image.reference.base import AbstractReferenceAdapter
from pcs_ext.image.reference.behind import behind
from pcs_ext.image.reference.control import Branch, added_by, controlled, maps_inside, with_maps
from pcs_ext.image.reference.inside import answering, read_of
from pcs_ext.image.reference.maps import MapKinds
from pcs_ext.image.types import Conditioning


class AbstractLedAdapter(AbstractReferenceAdapter, abc.ABC):
    """An adapter whose branch adds to the denoiser what it reads in maps.

    `_told` leaves the maps in the conditioning (`led`), and tokens of photos under `tokens_name`.
    """

    enters = True
    maps_name: ClassVar[str]
    """Of the maps in the conditioning."""
    tokens_name: ClassVar[str]
    """Of what photos tell the branch."""
    factor: int
    """Pixels along a latent cell."""

    @classmethod
    def reads_maps(cls, config: Any) -> MapKinds:
        """See `AbstractReferenceAdapter.reads_maps`."""
        return config.maps

    @property
    @abc.abstractmethod
    def leads(self) -> Branch:
        """What reads the maps."""

    def branch_context(self, states: Tensor, tokens: Tensor) -> Tensor:
        """What it reads beside them, of text states `b n d` and photos' tokens `b m d`: these behind those, as the
        denoiser does."""
        return behind(states, tokens)

    def led(self, told: Conditioning, maps: Tensor, strength: Tensor | float) -> Conditioning:
        """Conditioning that also holds maps `b c H W`, which count so much in each row, `b`, or in all."""
        counted = strength if isinstance(strength, Tensor) else told.states.new_full((len(maps),), strength)
        return with_maps(told, self.maps_name, maps, counted, self.factor)

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: maps are read whenever the denoiser is asked."""
        with super().inserted(backbone, scale), answering(backbone, self.maps_name, self._answered(backbone)):
            yield

    def _answered(self, backbone: AbstractBackbone) -> Any:
        def answered(predict: Predict, noisy: Tensor, timesteps: Tensor, conditioning: Conditioning) -> Tensor:
            given = maps_inside(conditioning, self.maps_name, noisy, self.factor)
            if given is None:
                return predict(noisy, timesteps, conditioning)
            tokens = read_of(conditioning, self.tokens_name)
            added = added_by(self.leads, noisy, timesteps, conditioning, given, tokens, self.branch_context)
            with contextlib.nullcontext() if added is None else controlled(backbone.denoiser, added):
                return predict(noisy, timesteps, conditioning)

        return answered
