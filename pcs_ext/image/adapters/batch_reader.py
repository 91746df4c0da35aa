"""Adapters that are told something of every photo while it is learned: where things are in it, whence it was taken."""

import abc
import contextlib

import torch
from torch import Tensor

from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.types import Batch


class AbstractBatchReader(AbstractAdapter):
    """An adapter whose effect on a row of a batch depends on more than the row's words."""

    @abc.abstractmethod
    def reading(
        self, batch: Batch, latents: Tensor, generator: torch.Generator
    ) -> contextlib.AbstractContextManager[None]:
        """Inside, a pass over this batch is told what the batch says.

        Args:
            batch: of photos, perhaps with class images behind them.
            latents: of its images, `b c h w`, clean.
            generator: of what is drawn; on the CPU.
        """
