"""A measured number with everything that is needed to compare it with another."""

import statistics
from collections.abc import Sequence

from pcs_ext.config_io import config
from pcs_ext.image.evaluate.metrics import bootstrap_interval


@config
class Figure:
    """One number of a report."""

    value: float
    """Mean over units."""
    spread: float
    """Sample standard deviation over units; 0 for a single one."""
    interval: tuple[float, float]
    """95 % bootstrap interval of the mean over units."""
    unit: str
    """What was drawn independently, and what the spread is over: `seed`, `subject`, `prompt`, `view` or `image`."""
    units: int
    """How many of them."""
    n: int
    """Images (or image sets, for diversity) behind the number."""
    prompts: int
    """Different prompts behind the number."""
    encoder: str
    """Id of the encoder or attribute reader that judged."""
    higher_is_better: bool | None
    """None where neither is better as such (diversity)."""


def figure_over(
    groups: Sequence[Sequence[float]],
    *,
    unit: str,
    prompts: int,
    encoder: str,
    higher_is_better: bool | None,
) -> Figure:
    """A figure from the values of each unit; empty units are left out, every other one weighs the same."""
    filled = [list(group) for group in groups if group]
    assert filled, "a figure needs at least one value"
    means = [statistics.fmean(group) for group in filled]
    return Figure(
        value=statistics.fmean(means),
        spread=statistics.stdev(means) if len(means) > 1 else 0.0,
        interval=bootstrap_interval(means),
        unit=unit,
        units=len(means),
        n=sum(map(len, filled)),
        prompts=prompts,
        encoder=encoder,
        higher_is_better=higher_is_better,
    )


def pooled_figure(figures: Sequence[Figure]) -> Figure:
    """One figure over several subjects (or runs): their values are the units. All must share the encoder."""
    encoders = {figure.encoder for figure in figures}
    assert len(encoders) == 1, f"figures of different encoders cannot be averaged: {sorted(encoders)}"
    values = [figure.value for figure in figures]
    return Figure(
        value=statistics.fmean(values),
        spread=statistics.stdev(values) if len(values) > 1 else 0.0,
        interval=bootstrap_interval(values),
        unit="subject",
        units=len(values),
        n=sum(figure.n for figure in figures),
        prompts=max(figure.prompts for figure in figures),
        encoder=figures[0].encoder,
        higher_is_better=figures[0].higher_is_better,
    )
