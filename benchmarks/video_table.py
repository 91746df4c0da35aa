"""From measured clips to the rows of `results/video_systems.json`."""

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from benchmarks.video_judges import MEASURES
from benchmarks.video_world import Pair
from pcs_ext.video.recipes import MOTIONS

Run = tuple[str, str, Pair, int]
"""Arm (a recipe, or `SUBJECT_ALONE`), who (subject or noun), pair, seed."""
SUBJECT_ALONE = "subject-alone"
"""The arm without a motion: what the base does of itself."""
CLAIMS: Mapping[str, tuple[str, str]] = {
    "motion-director": ("leakage", "temporal-lora"),
    "customize-a-video": ("leakage", "temporal-lora"),
    "motioncrafter": ("leakage", "temporal-lora"),
    "dreamvideo-motion": ("prompt", "temporal-lora"),
    "vmc": ("motion-fidelity", "tune-a-video"),
    "tune-a-video": ("motion-fidelity", SUBJECT_ALONE),
    "make-a-protagonist": ("subject", "tune-a-video"),
    "save": ("motion-fidelity", "tune-a-video"),
    "lamp": ("consistency", "tune-a-video"),
    "customttt": ("subject", "motion-director"),
    "newmove": ("motion-read", "temporal-lora"),
}
"""Recipe -> the measure it exists for, and what its paper improves on there.

A plain temporal LoRA stands for fine-tuning the base on the clip (MotionDirector's ablation, Customize-A-Video without
its absorber, DreamVideo's fine-tuned ModelScope, NewMove's plain tuning)."""
_Values = Callable[[str], list[float | None]]
"""Measure -> its values, pair by pair and seed by seed."""


def result_rows(
    found: Mapping[Run, Mapping[str, Any]], recipes: Iterable[str], truth: Sequence[Mapping[str, float | None]]
) -> list[dict[str, Any]]:
    """Means over pairs and seeds. Where there is a baseline the spread is half the 95 % interval of the difference.

    Args:
        found: measures of every run.
        recipes: which have rows.
        truth: measures of the world's own clips.
    """
    keys = list(dict.fromkeys((pair, seed) for _, _, pair, seed in found))
    rows = [_row("true-clips", name, [one[name] for one in truth]) for name in MEASURES]
    alone = _values(found, SUBJECT_ALONE, "subject", keys)
    rows += [_row(SUBJECT_ALONE, name, alone(name), times=alone) for name in MEASURES]
    for recipe in recipes:
        rows += _rows_of(recipe, found, keys)
    return [row for row in rows if row is not None]


def _values(found: Mapping[Run, Mapping[str, Any]], arm: str, who: str, keys: Sequence[tuple[Pair, int]]) -> _Values:
    return lambda name: [found[arm, who, pair, seed].get(name) for pair, seed in keys]


def _rows_of(recipe: str, found: Mapping[Run, Mapping[str, Any]], keys: Sequence[tuple[Pair, int]]) -> list[Any]:
    mine = _values(found, recipe, "subject", keys)
    metric, baseline = CLAIMS.get(recipe, ("", ""))
    measured = any(arm == baseline for arm, *_ in found)
    other = _values(found, baseline, "subject", keys) if measured else None
    rows = []
    for name in MEASURES:
        row = _row(recipe, name, mine(name), baseline if other else None, other and other(name), times=mine)
        # Only the measure a method exists for speaks for its row of the survey.
        if row is not None and other and name == metric and MOTIONS[recipe].system:
            row = {"system": MOTIONS[recipe].system, **row}
        rows.append(row)
    # The suite's own composition: a learned subject with a learned motion, against either alone.
    without, noun = _values(found, SUBJECT_ALONE, "subject", keys), _values(found, recipe, "noun", keys)
    for name, one, what in (
        ("motion-read", without, SUBJECT_ALONE),
        ("motion-fidelity", without, SUBJECT_ALONE),
        ("subject", noun, "motion-alone"),
    ):
        rows.append(_row(f"{recipe} + subject", name, mine(name), what, one(name), times=mine))
    return rows


def _row(
    method: str,
    metric: str,
    values: Sequence[float | None],
    baseline: str | None = None,
    baseline_values: Sequence[float | None] | None = None,
    times: _Values | None = None,
) -> dict[str, Any] | None:
    """One row; None where nothing could be measured."""
    others = [None] * len(values) if baseline_values is None else baseline_values
    both = [
        (value, other)
        for value, other in zip(values, others, strict=True)
        if value is not None and (other is not None or baseline_values is None)
    ]
    if not both:
        return None
    apart = [value - (other or 0.0) for value, other in both]
    return {
        "method": method,
        "metric": metric,
        "higher_is_better": MEASURES[metric],
        "value": statistics.fmean(value for value, _ in both),
        "spread": 1.96 * statistics.stdev(apart) / len(apart) ** 0.5 if len(apart) > 1 else 0.0,
        "n": len(both),
        "baseline": baseline,
        "baseline_value": None if baseline is None else statistics.fmean(other or 0.0 for _, other in both),
        "seconds": _mean(times, "learn_seconds"),
        "peak_mb": _mean(times, "learn_mb"),
        "make_seconds": _mean(times, "make_seconds"),
        "make_mb": _mean(times, "make_mb"),
    }


def _mean(times: _Values | None, name: str) -> float | None:
    found = [] if times is None else [value for value in times(name) if value is not None]
    return round(statistics.fmean(found), 2) if found else None
