"""How sure a mean over subjects is: seeds of one subject are no more subjects."""

import statistics
from collections.abc import Hashable, Sequence

_STUDENT = (
    12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145, 2.131, 2.120,
    2.110, 2.101, 2.093, 2.086, 2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042,
)  # fmt: skip
"""Student's t that 95 % lie within, for 1 to 30 degrees of freedom; 1.96 beyond."""


def half_interval(values: Sequence[float], units: Sequence[Hashable]) -> float:
    """Half the 95 % interval of the mean (Student's t over the units' own means); 0 of a single unit.

    Args:
        values: of every run.
        units: what each run is of, such as its subject: runs of one unit are averaged first.
    """
    groups: dict[Hashable, list[float]] = {}
    for value, unit in zip(values, units, strict=True):
        groups.setdefault(unit, []).append(value)
    means = [statistics.fmean(group) for group in groups.values()]
    if len(means) < 2:
        return 0.0
    freedom = len(means) - 1
    factor = _STUDENT[freedom - 1] if freedom <= len(_STUDENT) else 1.96
    return factor * statistics.stdev(means) / len(means) ** 0.5
