"""What a term of a loss sees, and what it promises."""

import abc
import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from pcs_ext.errors import ConfigError
from pcs_ext.image.adapters.base import AbstractAdapter
from pcs_ext.image.adapters.tokens import TokenAdapter
from pcs_ext.image.attention import AttentionMaps
from pcs_ext.image.backbone import AbstractBackbone
from pcs_ext.image.types import Batch, Conditioning


@dataclasses.dataclass(frozen=True, kw_only=True)
class Noised:
    """What the denoiser was asked in a pass, and what it should have answered."""

    latents: Tensor
    """Noisy, `b c h w`."""
    timesteps: Tensor
    """`b`."""
    target: Tensor
    """`b c h w`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One pass of the denoiser over a batch, after it."""

    backbone: AbstractBackbone
    batch: Batch
    conditioning: Conditioning
    adapters: Mapping[str, AbstractAdapter]
    """The recipe's, by name."""
    maps: AttentionMaps | None
    """Attention of the pass at the side the term asked for."""
    generator: torch.Generator
    """Of everything random; on the CPU."""
    noised: Noised | None = None
    """For terms that ask the denoiser again; None where only words are looked at."""
    prediction: Tensor | None = None
    """What the denoiser answered, `b c h w`, with gradients; None where only words are looked at."""

    def asked(self) -> Noised:
        """What the denoiser was asked."""
        assert self.noised is not None, "this term asks the denoiser again and needs what it was asked"
        return self.noised

    def words(self) -> dict[str, TokenAdapter]:
        """The adapters with learned tokens, by name.

        Raises:
            ConfigError: there is none.
        """
        found = {name: adapter for name, adapter in self.adapters.items() if isinstance(adapter, TokenAdapter)}
        if not found:
            raise ConfigError(
                f"this loss is about learned tokens, but the recipe's adapters {sorted(self.adapters)} have none; add "
                "an adapter of kind embedding."
            )
        return found


class AbstractTerm(abc.ABC):
    """A named part of a loss beside the denoising error."""

    name: str
    """In logs; unique within an objective."""
    maps_side: int | None = None
    """Cells per side of the attention maps it reads; None: it reads none."""

    @abc.abstractmethod
    def __call__(self, step: Step) -> Tensor:
        """The term, weighted, 0-d, differentiable."""
