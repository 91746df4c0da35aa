"""Guidance that takes turns: away from no words, and away from other pictures, step after step.

Re-Imagen's interleaved guidance (Chen et al. 2022, arXiv 2209.14491, section 3.3), and DreamTuner's (arXiv 2312.13691).
"""

import abc
import contextlib
import dataclasses
from collections.abc import Iterator
from typing import ClassVar

import torch
from torch import Tensor

from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.reference.base import AbstractReferenceAdapter
from pcs_ext.image.sample import Sampling
from pcs_ext.image.types import Conditioning
from pcs_ext.runtime import generator_for


class AbstractTurnsAdapter(AbstractReferenceAdapter, abc.ABC):
    """An adapter that is told before every step of a sampling whose turn it is."""

    refines = True
    drawn_as: ClassVar[str]
    """What the turns are drawn by: a step's is the same for all pictures and all samplings."""

    def __init__(self) -> None:
        super().__init__()
        self._guided = 0
        self._turn = False

    @property
    @abc.abstractmethod
    def pictures_share(self) -> float:
        """Of the steps, in which guidance goes away from other pictures."""

    def guided(self, noisy: Tensor) -> bool:
        """Whether a batch is that of a guided step, its negative rows first."""
        return bool(self._guided) and len(noisy) == 2 * self._guided

    @contextlib.contextmanager
    def inserted(self, backbone: AbstractBackbone, scale: float = 1.0) -> Iterator[None]:
        """See `AbstractReferenceAdapter.inserted`; afterwards it is nobody's turn."""
        with super().inserted(backbone, scale):
            try:
                yield
            finally:
                self._guided, self._turn = 0, False

    def refined(
        self, backbone: AbstractBackbone, sampling: Sampling, step: int, timestep: Tensor, latents: Tensor
    ) -> Tensor:
        """See `AbstractReferenceAdapter.refined`: latents stay; whose turn it is is drawn, for all pictures alike."""
        self._guided = len(latents) if sampling.guided else 0
        self._turn = float(torch.rand((), generator=generator_for(self.drawn_as, step))) < self.pictures_share
        return latents


def seen_by_both(conditioning: Conditioning, count: int, names: tuple[str, ...]) -> Conditioning:
    """Guidance's negative rows, the first `count`, with what the positive rows behind them see under names that begin
    so."""
    shown = dict(conditioning.shown or {})
    for name, read in shown.items():
        if name.startswith(names):
            shown[name] = torch.cat([read[count:], read[count:]])
    return dataclasses.replace(conditioning, shown=shown or None)
