"""Adapters whose gated layers read patches in every block that has a text cross-attention."""

import abc
import contextlib
from collections.abc import Iterator, Mapping
from typing import ClassVar

from torch import nn

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.base import AbstractReferenceAdapter
from pcs_ext.image.reference.gated import GatedPatches, gated
from pcs_ext.image.reference.inside import Read, reading


class AbstractGatedAdapter(AbstractReferenceAdapter, abc.ABC):
    """`_told` leaves the patches in the conditioning, under `patches_name`."""

    patches_name: ClassVar[str]
    names: Mapping[str, str]
    """Of the blocks in `patches` and `gates`, by their paths."""
    patches: nn.ModuleDict
    """Maps of patches to the width of each block."""
    gates: nn.ModuleDict

    def begin_gates(self, widths: Mapping[str, int], patch: int, heads: int) -> None:
        """Make the layers, shut.

        Args:
            widths: of the blocks, by their paths.
            patch: width of a patch.
            heads: of the attentions.
        """
        self.names = {path: path.replace(".", "_") for path in widths}
        self.patches = nn.ModuleDict({self.names[path]: nn.Linear(patch, own) for path, own in widths.items()})
        self.gates = nn.ModuleDict({self.names[path]: GatedPatches(own, heads) for path, own in widths.items()})

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`: the gated layers are there while rows with patches are denoised."""
        gates = lambda read: self._gated(backbone, read)  # noqa: E731
        with super().inserted(backbone, scale), reading(backbone, self.patches_name, gates):
            yield

    def _gated(self, backbone: AbstractBackbone, read: Read) -> contextlib.AbstractContextManager[None]:
        gates = {path: self.gates[name] for path, name in self.names.items()}
        patches = {path: self.patches[name](read.vectors) for path, name in self.names.items()}
        return gated(backbone.denoiser, gates, patches, read.strength)
