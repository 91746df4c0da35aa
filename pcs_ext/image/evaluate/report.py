"""What `evaluate_subject` returns: named figures, kept as JSON and as rows of `results/NAME.json`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pcs_ext.config_io import config, from_jsonable, read_json, write_json
from pcs_ext.image.evaluate.copying import CopyReport
from pcs_ext.image.evaluate.figure import Figure, pooled_figure

SCHEMA = 1

MEANING: Mapping[str, str] = {
    "clip-i": "Image similarity to the reference photos, by the CLIP image encoder.",
    "dino-i": "Image similarity to the reference photos, by a self-supervised encoder that sees instance details.",
    "clip-i-truth": "Image similarity to true new views of the subject, by the CLIP image encoder.",
    "dino-i-truth": "Image similarity to true new views of the subject, by the self-supervised encoder.",
    "clip-i-ceiling": "What true new views themselves reach against the photos: the top of the scale for clip-i.",
    "dino-i-ceiling": "What true new views themselves reach against the photos: the top of the scale for dino-i.",
    "clip-i-truth-ceiling": "What true new views reach against each other: the top of the scale for clip-i-truth.",
    "dino-i-truth-ceiling": "What true new views reach against each other: the top of the scale for dino-i-truth.",
    "clip-t": "Agreement of image and prompt, with the plain class word in place of the subject.",
    "attributes": "Share of the things a prompt asks for that an attribute reader finds in the image.",
    "subject": "Share of the subject's own attributes (class, colour, pattern) found in the image.",
    "vendi": "Effective number of different images among the seeds of a prompt: 1 means all alike.",
    "distance": "Mean distance between images of the same prompt and different seeds.",
    "drift": "How far the model moved on prompts that do not name the subject: 0 is untouched.",
    "copies": "Share of images that repeat a reference photo more closely than any true new view does.",
}
"""One line per metric, for tables and pages. `attributes/KIND` means the same for one kind of attribute."""


@config
class Report:
    """All figures of one subject under one recipe."""

    recipe: str
    """Id of the recipe, or a baseline's name such as `class-word`."""
    subject: str
    """Name of the subject."""
    seeds: tuple[int, ...]
    """Sampling seeds, one image of each prompt per seed."""
    prompts: tuple[str, ...]
    """As written, with `{subject}`."""
    figures: dict[str, Figure]
    """By metric; keys as in `MEANING`, plus `attributes/KIND`."""
    copying: CopyReport | None = None
    """Details behind `copies`."""
    schema: int = SCHEMA
    """Version of this layout."""

    def save(self, path: Path) -> None:
        """Write as JSON."""
        write_json(path, self)

    @staticmethod
    def load(path: Path) -> "Report":
        """Read what `save` wrote.

        Raises:
            ConfigError: missing, not JSON, or another layout.
        """
        return from_jsonable(Report, read_json(path), where=str(path))


def meaning(metric: str) -> str:
    """One line that says what a metric is."""
    base, _, kind = metric.partition("/")
    return f"The same for {kind} prompts alone." if kind else MEANING[base]


def result_rows(
    reports: Sequence[Report],
    *,
    system: str = "",
    baseline: Sequence[Report] = (),
    seconds: float | None = None,
    peak_mb: float | None = None,
) -> list[dict[str, Any]]:
    """Rows of `results/NAME.json`: one per metric, over all subjects of one recipe.

    Args:
        reports: of one recipe, one per subject (and run).
        system: id in `systems.json` that the recipe implements; empty takes the recipe's.
        baseline: the same for the recipe or baseline it is compared with.
        seconds: what learning one subject took.
        peak_mb: peak memory of learning.
    """
    recipes = {report.recipe for report in reports}
    assert len(recipes) == 1, f"rows are of one recipe, got {sorted(recipes)}"
    rows = []
    for metric in reports[0].figures:
        figure = _over_subjects(reports, metric)
        against = _over_subjects(baseline, metric) if baseline and metric in baseline[0].figures else None
        rows.append(
            {
                "system": system or reports[0].recipe,
                "recipe": reports[0].recipe,
                "metric": metric,
                "higher_is_better": figure.higher_is_better,
                "value": figure.value,
                "spread": figure.spread,
                "interval": list(figure.interval),
                "unit": figure.unit,
                "units": figure.units,
                "n": figure.n,
                "prompts": figure.prompts,
                "encoder": figure.encoder,
                "baseline": baseline[0].recipe if against else None,
                "baseline_value": against.value if against else None,
                "seconds": seconds,
                "peak_mb": peak_mb,
            }
        )
    return rows


def _over_subjects(reports: Sequence[Report], metric: str) -> Figure:
    """A single report keeps its spread over seeds; several subjects are averaged, runs of a subject first."""
    if len(reports) == 1:
        return reports[0].figures[metric]
    by_subject: dict[str, list[Figure]] = {}
    for report in reports:
        by_subject.setdefault(report.subject, []).append(report.figures[metric])
    return pooled_figure([pooled_figure(figures) for figures in by_subject.values()])
