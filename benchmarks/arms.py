"""Ways compared on the same pictures and seeds: kept runs, and rows of their paired differences."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from benchmarks.spread import half_interval
from pcs_ext.config_io import read_json, write_json
from pcs_ext.image.levels import to_pil

Figures = Mapping[str, float]
Kept = list[tuple[Figures, Path]]
"""Figures and picture of every run of an arm, seed after seed."""


@dataclasses.dataclass(frozen=True)
class Claim:
    """Which arm is compared with which, and by what it speaks for its row of the survey."""

    arm: str
    baselines: tuple[str, ...]
    """The one that is best by a measure is what the arm is compared with by it."""
    exists_for: tuple[str, ...] = ()
    system: str = ""
    """Row of the survey; empty: the arm's own name."""
    beside: tuple[str, ...] = ()
    """Arms that are told and compared with nothing, such as what a rendering would score."""


def is_kept(folder: Path, count: int, seeds: Sequence[int]) -> bool:
    """Whether `kept_arm` would have nothing to make."""
    return all(_run_path(folder, index, seed).is_file() for seed in seeds for index in range(count))


def _run_path(folder: Path, index: int, seed: int) -> Path:
    return folder / f"{index:02d}-{seed}.json"


def kept_arm(
    folder: Path, count: int, seeds: Sequence[int], make: Callable[[int, int], tuple[Tensor, Figures]]
) -> Kept:
    """Figures and picture of every run; those in the folder are not made again.

    Args:
        folder: of this arm, these settings and this base alone.
        count: runs of each seed.
        seeds: of the runs.
        make: `index, seed -> picture 3 h w in [-1, 1], figures`.
    """
    found = []
    for seed in seeds:
        for index in range(count):
            path = _run_path(folder, index, seed)
            if not path.is_file():
                made, figures = make(index, seed)
                folder.mkdir(parents=True, exist_ok=True)
                to_pil(made).save(path.with_suffix(".png"))
                write_json(path, dict(figures))
            found.append((read_json(path), path.with_suffix(".png")))
    return found


def plain_row(method: str, metric: str, higher: bool, values: Sequence[float], count: int) -> dict[str, Any]:
    """An arm's mean with nothing beside it; the spread is half the 95 % interval over pictures.

    Args:
        method: the arm.
        metric: the measure.
        higher: is better.
        values: seed after seed, `count` runs of each.
        count: pictures, the units of the interval.
    """
    units = [index % count for index in range(len(values))]
    return {
        "method": method, "metric": metric, "higher_is_better": higher, "value": statistics.fmean(values),
        "spread": half_interval(values, units), "n": len(values),
        "baseline": None, "baseline_value": None, "seconds": None,
    }  # fmt: skip


def claim_row(
    claim: Claim, metric: str, higher: bool, found: Mapping[str, Sequence[float]], count: int
) -> dict[str, Any]:
    """An arm's mean beside the best of its baselines; the spread is that of their difference, picture by picture.

    Args:
        claim: what is compared.
        metric: the measure.
        higher: is better.
        found: by arm, values as in `plain_row`.
        count: pictures of each seed.
    """
    sign = 1 if higher else -1
    best = max(claim.baselines, key=lambda name: statistics.fmean(found[name]) * sign)
    values, others = found[claim.arm], found[best]
    row = plain_row(claim.arm, metric, higher, values, count)
    apart = plain_row(claim.arm, metric, higher, [a - b for a, b in zip(values, others, strict=True)], count)
    row |= {"spread": apart["spread"], "paired": True, "baseline": best, "baseline_value": statistics.fmean(others)}
    return {"system": claim.system or claim.arm, **row} if metric in claim.exists_for else row
