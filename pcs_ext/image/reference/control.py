"""A trained copy of a denoiser's downward half and middle whose outputs are added to the denoiser's own.

ControlNet (Zhang et al. 2023, arXiv 2302.05543) is such a copy, and so are the branches of systems that lead a picture
by condition maps while photos say what it shows. What is added enters by the denoiser's arguments for it, so that other
weights, programs and layers stay.
"""

import dataclasses
from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from pcs_ext.image.control_branch import ControlBranch, Residuals, added_of, controlled
from pcs_ext.image.reference.inside import Read, beside, read_of
from pcs_ext.image.types import Conditioning

__all__ = ["Branch", "ControlBranch", "ReadMaps", "Residuals", "added_by", "added_of", "controlled", "maps_inside",
           "with_maps"]  # fmt: skip


class Branch(Protocol):
    """`ControlBranch`, or one that reads maps in another way."""

    def __call__(
        self, noisy: Tensor, timesteps: Tensor, states: Tensor, hints: Tensor, added: dict[str, Tensor] | None
    ) -> Residuals: ...


def added_by(
    branch: Branch,
    noisy: Tensor,
    timesteps: Tensor,
    conditioning: Conditioning,
    given: "ReadMaps",
    tokens: Read | None,
    context: Callable[[Tensor, Tensor], Tensor],
) -> Residuals | None:
    """What a branch adds to a batch, zeros in rows without maps; None: no row has any.

    Args:
        branch: reads maps beside the denoiser.
        noisy: `b c h w`.
        timesteps: of all rows.
        conditioning: of the batch.
        given: its maps.
        tokens: of pictures; None: no row sees any.
        context: `(text states b n d, tokens b m d) -> what the branch reads in rows that see pictures`; in the others
            it reads the text's states.
    """
    mapped = (given.strength != 0).cpu()
    seen = torch.zeros_like(mapped) if tokens is None else (tokens.strength != 0).cpu()
    total: Residuals | None = None
    for with_pictures in (False, True):
        rows = (mapped & (seen == with_pictures)).nonzero()[:, 0].to(noisy.device)
        if not len(rows):
            continue
        own = conditioning[rows]
        states = own.states
        if with_pictures:
            assert tokens is not None
            states = context(states, tokens.vectors[rows].to(states))
        part = branch(noisy[rows], timesteps.expand(len(noisy))[rows], states, given.maps[rows], added_of(own, noisy))
        part = part.rows(given.strength[rows]).placed(rows, len(noisy))
        total = part if total is None else total.plus(part)
    return total


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReadMaps:
    """Condition maps of a batch inside the denoiser."""

    maps: Tensor
    """`b c H W` in [0, 1], zeros in rows without."""
    strength: Tensor
    """`b`, 0 in rows without."""


def with_maps(told: Conditioning, name: str, maps: Tensor, strength: Tensor, factor: int) -> Conditioning:
    """Conditioning that also holds condition maps, which `maps_inside` reads.

    Args:
        told: of `b` prompts.
        name: the adapter's own.
        maps: `b c H W`.
        strength: `b`, 0 where a row has none.
        factor: pixels along a latent cell, by which sides can be divided.
    """
    return beside(told, name, F.pixel_unshuffle(maps, factor).flatten(2), strength)


def maps_inside(conditioning: Conditioning, name: str, noisy: Tensor, factor: int) -> ReadMaps | None:
    """What `with_maps` put there; None: no row has maps.

    Args:
        conditioning: of a batch.
        name: the adapter's own.
        noisy: its latents, `b c h w`.
        factor: as it was.
    """
    read = read_of(conditioning, name)
    if read is None:
        return None
    cells = read.vectors.unflatten(2, tuple(noisy.shape[2:]))
    return ReadMaps(maps=F.pixel_shuffle(cells, factor), strength=read.strength)
