"""What every adapter promises: put itself into a backbone, train, and leave no trace."""

import abc
import contextlib
from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from pcs_ext.image.backbone import AbstractBackbone


class AbstractAdapter(abc.ABC):
    """Parameters added to (or freed in) a backbone.

    `inject` then `eject` restores the backbone bit for bit, whatever happened to the adapter in between. Several
    adapters may be injected at once under different names; they are ejected in any order.
    """

    name: str
    """Unique among the adapters injected into one backbone; letters, digits and underscores."""

    @abc.abstractmethod
    def inject(self, backbone: AbstractBackbone) -> None:
        """Attach to the backbone's modules. Before training the output of the backbone is unchanged.

        Raises:
            NoMatchingModulesError: the targets match nothing.
        """

    @abc.abstractmethod
    def eject(self) -> None:
        """Detach; parameters and state stay in the adapter, ready to be injected again."""

    @abc.abstractmethod
    def parameters(self) -> Mapping[str, tuple[nn.Parameter, ...]]:
        """Trainable parameters by group: `denoiser`, `text_encoder`, `text_encoder_2`, `embedding`, `content` or
        `image`."""

    @abc.abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """All tensors needed to restore the adapter, CPU, contiguous, names unique within the adapter."""

    @abc.abstractmethod
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore; works before and after `inject`.

        Raises:
            ArtifactError: keys or shapes differ; both sides are listed.
        """

    @abc.abstractmethod
    def set_scale(self, scale: float) -> None:
        """Strength at sampling: 1 as trained, 0 as if ejected. Must not be changed between forward and backward."""


@contextlib.contextmanager
def injected(backbone: AbstractBackbone, *adapters: AbstractAdapter) -> Iterator[AbstractBackbone]:
    """The backbone with the adapters in it; they leave it again on exit, also after an error."""
    done: list[AbstractAdapter] = []
    try:
        for adapter in adapters:
            adapter.inject(backbone)
            done.append(adapter)
        yield backbone
    finally:
        for adapter in reversed(done):
            adapter.eject()
