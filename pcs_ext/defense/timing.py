"""Which noise levels an attack looks at."""

import dataclasses
from collections.abc import Callable

import torch
from torch import Tensor

from pcs_ext.config_io import config
from pcs_ext.errors import ConfigError
from pcs_ext.image.timesteps import TimestepSampling


@config
class Search:
    """SimAC's greedy search (arXiv 2312.07865, algorithm 1; numbers as in the released code)."""

    rounds: int = 50
    """At most so many trials per photo."""
    candidates: int = 5
    """Timesteps compared in a trial."""
    window: int = 20
    """A trial deletes this many timesteps on either side of its weakest one."""
    keep: int = 100
    """Stop when no more than this many remain."""


@config
class Timing:
    """How timesteps are drawn."""

    sampling: TimestepSampling = TimestepSampling()
    """Distribution over all timesteps."""
    per_encode: int = 1
    """Timesteps for each pass through the encoder, which costs more than the denoiser: k of them cost far less than k
    steps."""
    search: Search | None = None
    """Draw only from the timesteps this search keeps for each photo."""

    def __post_init__(self) -> None:
        if self.per_encode < 1:
            raise ConfigError(f"per_encode must be at least 1, got {self.per_encode}.")


@dataclasses.dataclass
class Timesteps:
    """The timing of one run: the policy and what its searches found."""

    timing: Timing
    alphas_cumprod: Tensor
    kept: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    """bool `T` by photo: what a search left."""

    def draw(self, key: str, generator: torch.Generator) -> Tensor:
        """`k` timesteps for one photo, int64, CPU."""
        count = self.timing.per_encode
        if key not in self.kept:
            return self.timing.sampling.draw(count, self.alphas_cumprod, generator)
        allowed = self.kept[key].nonzero()[:, 0]
        return allowed[torch.randint(len(allowed), (count,), generator=generator)]


Probe = Callable[[int], float]
"""Timestep -> L1 norm of the image gradient there, at the current perturbation."""


def search_timesteps(
    search: Search, total: int, probe: Probe, step: Callable[[int], None], generator: torch.Generator
) -> Tensor:
    """Delete the neighbourhoods of timesteps whose gradients are weak; bool `total`.

    Args:
        search: how.
        total: number of timesteps.
        probe: scores one timestep.
        step: takes one step of the attack at a timestep, so that later probes see a perturbed photo.
        generator: draws the candidates.
    """
    kept = torch.ones(total, dtype=torch.bool)
    for _ in range(search.rounds):
        remaining = kept.nonzero()[:, 0]
        if len(remaining) <= search.keep:
            break
        order = torch.randperm(len(remaining), generator=generator)[: search.candidates]
        drawn: list[int] = remaining[order].tolist()
        scores = [probe(timestep) for timestep in drawn]
        weakest, strongest = drawn[scores.index(min(scores))], drawn[scores.index(max(scores))]
        trial = kept.clone()
        trial[max(0, weakest - search.window) : weakest + search.window + 1] = False
        if not trial.any():  # few timesteps in all: the last window stays
            break
        kept = trial
        step(strongest)
    return kept
